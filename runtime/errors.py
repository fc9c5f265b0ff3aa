"""The errors of this project, one tree.

*Error*
├── InputError            what was given cannot be used: a path, a name, a shape, a recipe    (exit code 2)
└── WorkError             the work itself failed                                              (exit code 3)
    ├── BundleError       a bundle is damaged, is newer than this runtime, or is none
    ├── EngineError       an engine library refused a model, crashed, hung or answered wrongly
    │   └── EngineMissing its library is not installed; the message names the extra
    ├── NoEngineError     no engine of a bundle runs on this machine
    └── StepError         a step failed, or its result is not what it should be
        └── NothingToDo   a step has nothing that it could change in this model

A message says what was got, what is allowed, and the command that mends it. Errors of vendors' libraries are
translated where they are called, chained with `from`.
"""


class Error(Exception):
    """The base of every error that this project raises on purpose."""


class InputError(Error):
    """What the caller gave cannot be used."""


class WorkError(Error):
    """The input was fine; the work failed."""


class BundleError(WorkError):
    """A bundle that is refused."""


class EngineError(WorkError):
    """An engine library failed, or gave an answer that cannot be right."""


class EngineMissing(EngineError):
    """An engine library that is not installed here."""


class NoEngineError(WorkError):
    """None of a bundle's engines runs here."""


class StepError(WorkError):
    """A step of a recipe failed."""


class NothingToDo(StepError):
    """A step has nothing to change: no layer to round, or all are rounded already."""
