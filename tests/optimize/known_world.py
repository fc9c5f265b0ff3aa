"""A search until a latency in a world whose times are known: an engine there is a function of the module."""

from optimize.deadline import Deadline
from optimize.progress import Progress
from runtime.intervals import Ratio


def searched(kind, step, given, engine, table, context, before=(), deadline=None, said=()):
    """What a search of a kind finds there.

    Args:
        engine: of a module, the milliseconds that it takes.
        table: in the place of the search's own.
        context: makes that of a step.
        said: by the step, where it prunes.
    """

    def after(steps):
        model = given
        for one in steps:
            model = one(model, context())
        return model

    class World(kind):
        def _pruned(self, *steps):
            return after((*self.before, *steps)), list(said) if steps else []

        def _built(self, what, *steps):
            return after(steps).module

        def _factor(self, built):
            value = engine(given.module) / engine(built)
            return Ratio(value, value * 0.99, value * 1.01, 5)

        def _table(self, *asked):
            return table(*asked)

    progress = Progress(1, silent=True)
    return World(step, before, None, None, None, None, progress, deadline or Deadline(), 1.0)._searched()
