"""What makes a model's inputs of raw samples: pictures, text, sound. One file a kind; look-up lists this folder.

    EXTRA                             of the library that it takes on a device
    FILES                             which of the settings are files, a tokenizer's say
    Settings                          a frozen dataclass: its fields are a recipe's keys and a manifest's
    suited(inputs)                    -> settings that a model's inputs tell by themselves; raises InputError
    open(settings, files, inputs)     -> Reader

What was evaluated and what a device does is this very code, with the settings that travel in the bundle.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from runtime import listing
from runtime.errors import InputError
from runtime.tensors import Array, TensorSpec


class Reader(Protocol):
    """One kind of preprocessing, its settings known.

    One that pads samples to a length has `axis`, `length` and `alone` too, as `runtime.pre.text` has them.

    Attributes:
        fills: the inputs that it makes, in order.
        most: raw columns that it can take.
    """

    fills: tuple[str, ...]
    most: int

    def sample(self, *raw: Any) -> Any:
        """What one raw sample holds; raises InputError where it cannot be read."""

    def batch(self, samples: Sequence[Any]) -> dict[str, Array]:
        """The inputs by name, of what `sample` gave for each."""


@runtime_checkable
class Placing(Reader, Protocol):
    """A reader that knows where things come to lie."""

    def mask(self, mask: Any, raw: Any) -> Array:
        """Class numbers as they lie in the input; raises InputError where they cannot be read."""

    def boxes(self, boxes: Array, raw: Any) -> Array:
        """Boxes as they lie in the input."""


@runtime_checkable
class Locating(Reader, Protocol):
    """A reader that knows of which characters its tokens are."""

    def spans(self, spans: Array, *raw: Any) -> Array:
        """Tokens of characters, in the last of the raw texts; raises InputError where they are cut away."""


@dataclass(frozen=True)
class PreSpec:
    """One kind of preprocessing in plain values.

    Attributes:
        kind: a file in this folder.
        columns: of the raw data, that it reads, in order; none where the data is still to tell.
        settings: as the kind's `Settings` has them, but for files.
        files: setting to path, of this machine or of a bundle.
    """

    kind: str
    columns: tuple[str, ...]
    settings: Mapping[str, Any]
    files: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """As it stands in a manifest."""
        return {
            "kind": self.kind, "columns": list(self.columns), "settings": dict(self.settings), "files": dict(self.files)
        }  # fmt: skip

    def open(self, inputs: Sequence[TensorSpec]) -> Reader:
        """The reader; raises InputError where a setting or a file cannot be, EngineMissing without its library."""
        kind = listing.get(__name__, self.kind, "kind of preprocessing")
        files = {role: Path(file) for role, file in self.files.items()}
        reader: Reader = kind.open(settings(self.kind, self.settings), files, inputs)
        return reader


def names() -> list[str]:
    """All kinds."""
    return listing.names(__name__)


def files(kind: str) -> tuple[str, ...]:
    """Which settings of a kind are files."""
    found: tuple[str, ...] = listing.get(__name__, kind, "kind of preprocessing").FILES
    return found


def suited(kind: str, inputs: Sequence[TensorSpec]) -> PreSpec:
    """What a model's inputs tell of the preprocessing that it wants; raises InputError where they do not."""
    return PreSpec(kind, (), listing.get(__name__, kind, "kind of preprocessing").suited(inputs), {})


def settings(kind: str, table: Mapping[str, Any]) -> Any:
    """A kind's settings.

    Raises:
        InputError: an unknown key, or a value that cannot be.
    """
    known = listing.get(__name__, kind, "kind of preprocessing").Settings
    allowed = [field.name for field in fields(known)]
    for key in table:
        if key not in allowed:
            raise InputError(listing.unknown(f"key of the preprocessing '{kind}'", str(key), allowed))
    plain = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    try:
        return known(**plain)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"the preprocessing '{kind}': {error}") from error


class Preprocessing:
    """All that is done to a model's raw samples.

    Args:
        specs: of each kind, with the columns that it reads.
        inputs: the model's.

    Raises:
        InputError: two make the same input, or one does not fit.
    """

    def __init__(self, specs: Sequence[PreSpec], inputs: Sequence[TensorSpec]) -> None:
        self._parts = [(spec.columns, spec.open(inputs)) for spec in specs]
        self.columns = tuple(name for columns, _ in self._parts for name in columns)
        self.fills = tuple(name for _, reader in self._parts for name in reader.fills)
        if len(set(self.fills)) < len(self.fills):
            raise InputError(f"two kinds of preprocessing make the same input: {', '.join(self.fills)}.")

    def sample(self, raw: Mapping[str, Any]) -> list[Any]:
        """What one raw sample holds, by column; raises InputError where it cannot be read."""
        return [reader.sample(*(raw[name] for name in columns)) for columns, reader in self._parts]

    def batch(self, samples: Sequence[list[Any]]) -> dict[str, Array]:
        """The inputs of several samples, each (samples, ...)."""
        found: dict[str, Array] = {}
        for index, (_, reader) in enumerate(self._parts):
            found |= reader.batch([sample[index] for sample in samples])
        return found

    def label(self, label: Any, raw: Mapping[str, Any]) -> Array:
        """What a raw label says of a sample as it was read.

        Of a picture a mask's path becomes (height, width), and boxes (n, 5); of a text characters (n, 2) become tokens
        (2 + answers, 2), as `Locating` has them; another text stays one.

        Raises:
            InputError: the mask cannot be read, the answers are cut away, or nothing is there that they could be of.
        """
        spans = isinstance(label, np.ndarray) and label.shape[-1] == 2
        for columns, reader in self._parts:
            if spans and isinstance(reader, Locating):
                return reader.spans(label, *(raw[name] for name in columns))
            if not spans and isinstance(reader, Placing):
                read = reader.boxes if isinstance(label, np.ndarray) else reader.mask
                return read(label, raw[columns[0]])
        if isinstance(label, str):
            return np.asarray(label)
        raise InputError(f"the labels are {'answers' if spans else 'boxes'}, and nothing is there they could be of.")

    def __call__(self, raw: Mapping[str, Sequence[Any]]) -> dict[str, Array]:
        """The inputs of raw samples by column; raises InputError where one cannot be read."""
        samples = [self.sample(one) for one in rows(raw)]
        if not samples:
            raise InputError("there is no raw sample.")
        return self.batch(samples)


def rows(raw: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Columns of samples, sample by sample; InputError where they differ in length."""
    lengths = {name: len(values) for name, values in raw.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"the columns differ in their number of samples: {lengths}.")
    for values in zip(*raw.values(), strict=True):
        yield dict(zip(raw, values, strict=True))


def cell(value: Any) -> Any:
    """A cell of a column of its own, (1,), as tables hold it; and numpy's text as Python's."""
    if isinstance(value, np.ndarray) and value.shape == (1,) and value.dtype.kind in "UO":
        value = value[0]
    return str(value) if isinstance(value, np.str_) else value
