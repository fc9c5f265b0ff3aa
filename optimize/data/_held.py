"""What a pass over data gave, held in memory for the next: decoding pictures anew takes longer than most models."""

from collections.abc import Callable, Iterable, Iterator

from optimize.data._batch import Batch

HELD_BYTES = 2**29  # of a split; a larger one is read anew in each pass


class Held:
    """Begins a pass over batches; those after the first whole one come from memory, where they fit into `most` bytes.

    Args:
        passes: begins a pass over the batches as they are read.
    """

    def __init__(self, passes: Callable[[], Iterable[Batch]], most: int = HELD_BYTES) -> None:
        self._passes = passes
        self._most = most
        self._held: list[Batch] | None = None
        self._fits = True

    def __call__(self) -> Iterator[Batch]:
        if self._held is not None:
            yield from map(_apart, self._held)
            return
        seen, size = list[Batch](), 0
        for batch in self._passes():
            size += sum(one.nbytes for one in (*batch[0].values(), batch[1]) if one is not None)
            if size > self._most:
                self._fits = False
            if self._fits:
                seen.append(_apart(batch))
            else:
                seen.clear()
            yield batch
        if self._fits:
            self._held = seen


def _apart(batch: Batch) -> Batch:
    """With labels of its own: a user's metric may write into them."""
    feeds, labels = batch
    return dict(feeds), None if labels is None else labels.copy()
