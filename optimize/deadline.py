"""How long a search may go on, and Ctrl-C, which under a deadline ends the search and not the run."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Deadline:
    """From when on no more is tried.

    Args:
        seconds: for the whole run; None for as long as it takes.
        clock: in seconds, that never goes back.
    """

    def __init__(self, seconds: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._begun = clock()
        self.interrupted = False

    def over(self, share: float = 1.0) -> bool:
        """Whether this share of the time is gone, or the user has interrupted the search."""
        return self.interrupted or (self.seconds is not None and self._clock() - self._begun > share * self.seconds)

    @property
    def why(self) -> str:
        """Why no more is tried, in words."""
        return "the search was interrupted" if self.interrupted else f"the {self.seconds:g} s of --time were used up"

    @contextmanager
    def ending(self) -> Iterator[None]:
        """What is done in here may be interrupted: the first Ctrl-C then ends the search, where there is a deadline."""
        try:
            yield
        except KeyboardInterrupt:
            if self.seconds is None or self.interrupted:
                raise
            self.interrupted = True
