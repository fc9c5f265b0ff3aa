"""Text, by `tokenizers`: numbers of tokens, a mask, and the numbers of the two sentences of a pair.

A raw sample is one text, or two. A batch is padded to the first of `lengths` that holds its longest text, so that an
engine sees few shapes; without `lengths` to its longest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.engines import library
from runtime.errors import InputError
from runtime.pre import cell
from runtime.tensors import Array, TensorSpec

EXTRA = "text"
FILES = ("tokenizer",)
LONGEST = 1 << 20  # tokens


@dataclass(frozen=True)
class Settings:
    """How tokens become inputs.

    Attributes:
        max_length: tokens of a sample; what is longer is cut.
        lengths: to which a batch is padded, ascending; the last is `max_length` where it is left out.
        pad: the token to pad with.
        left: pad on the left, as models that go on with a text take it.
        ids: the input that takes the tokens' numbers.
        mask: the input that is 1 where there is a token; a model may have none.
        types: the input that is 1 in the second text; a model may have none.
    """

    max_length: int = 128
    lengths: tuple[int, ...] = ()
    pad: str = "[PAD]"
    left: bool = False
    ids: str = "input_ids"
    mask: str = "attention_mask"
    types: str = "token_type_ids"

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if type(self.max_length) is not int or not 0 < self.max_length <= LONGEST:
            raise ValueError(f"max_length = {self.max_length!r}; a number of tokens")
        lengths = self.lengths
        whole = type(lengths) is tuple and all(type(n) is int and 0 < n <= self.max_length for n in lengths)
        if not whole or list(lengths) != sorted(set(lengths)):
            raise ValueError(f"lengths = {lengths!r}; they ascend, up to max_length = {self.max_length}")
        if not all(type(name) is str for name in (self.pad, self.ids, self.mask, self.types)) or not self.ids:
            raise ValueError("pad, ids, mask and types are names")
        if type(self.left) is not bool:
            raise ValueError(f"left = {self.left!r}; true or false")


def suited(inputs: Sequence[TensorSpec]) -> dict[str, Any]:
    """Never: which tokenizer it is no input tells; raises InputError."""
    raise InputError(
        "the data is text, and the model takes numbers: name its tokenizer in the recipe, "
        '[[pre]] kind = "text", tokenizer = "tokenizer.json".'
    )


def open(settings: Settings, files: Mapping[str, Path], inputs: Sequence[TensorSpec]) -> "Texts":
    """The reader; raises InputError where the tokenizer is none, or does not fit the settings or the model."""
    if "tokenizer" not in files:
        raise InputError('the preprocessing "text" needs tokenizer = "tokenizer.json".')
    path = files["tokenizer"]
    if not path.is_file():
        raise InputError(f"no such file: {path} (the tokenizer).")
    tokenizers = library("tokenizers", EXTRA)
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise InputError(f"{path} is no tokenizer.json that tokenizers can read: {error}") from error
    known = {spec.name: spec for spec in inputs}
    if inputs and settings.ids not in known:
        raise InputError(f"the model has no input '{settings.ids}' for tokens; its inputs are {', '.join(known)}.")
    fills = [name for name in (settings.ids, settings.mask, settings.types) if name and (name in known or not inputs)]
    axis = known[settings.ids].shape[1] if inputs and len(known[settings.ids].shape) > 1 else None
    return Texts(settings, tokenizer, {name: known[name].dtype if name in known else "int64" for name in fills}, axis)


class Texts:
    """Reads texts.

    Attributes:
        axis: the name of the axis of tokens, or its size where that is fixed; None where the model is not known.
    """

    most = 2

    def __init__(
        self, settings: Settings, tokenizer: Any, dtypes: Mapping[str, str], axis: int | str | None = None
    ) -> None:
        self.settings = settings
        self.axis = axis
        self.fills = tuple(dtypes)
        self._dtypes = dtypes
        self._pad = tokenizer.token_to_id(settings.pad)
        if self._pad is None:
            raise InputError(f"the tokenizer has no token '{settings.pad}' to pad with; name its own: pad = ...")
        tokenizer.enable_truncation(settings.max_length)
        tokenizer.no_padding()  # which its file may ask for
        self._tokenizer = tokenizer
        self.vocabulary = int(tokenizer.get_vocab_size())

    def sample(self, *raw: Any) -> Any:
        """The tokens of a text, or of a pair: numbers of tokens and of the text that each is of."""
        texts = [cell(one) for one in raw]
        if not 1 <= len(texts) <= self.most or not all(isinstance(one, str) for one in texts):
            kinds = ", ".join(type(one).__name__ for one in texts)
            raise InputError(f"a text was expected, or a pair; got {kinds}.")
        found = self._tokenizer.encode(*texts)
        if not found.ids:
            raise InputError("a text is empty: it has no tokens.")
        return found.ids, found.type_ids

    def spans(self, spans: Array, *raw: Any) -> Array:
        """Where a context and answers in it stand among the tokens of a sample, as questions are judged by.

        Args:
            spans: (n, 2), an answer's first character and the one behind its last, in the last of the texts; a row of
                -1 says that it may be right to give none.
            raw: the question and its context.

        Returns:
            Whole numbers (2 + answers, 2), a first and a last token each: of the context, of what stands for no answer
            (the token before all; -1 where it may not be given), of each answer that is not cut away.

        Raises:
            InputError: the context or all answers are cut away, or the tokens do not begin with one that is of no text.
        """
        found = self._tokenizer.encode(*(cell(one) for one in raw))
        own = [place for place, text in enumerate(found.sequence_ids) if text == len(raw) - 1]
        optional = bool((spans < 0).any())
        if self.settings.left or (optional and found.sequence_ids[0] is not None):
            raise InputError("answers in a text need tokens that are padded on the right, behind one for no answer.")
        answers = [(0, 0)] if (spans < 0).all() else []
        end = found.offsets[own[-1]][1] if own else 0
        for first, behind in spans[spans[:, 0] >= 0].tolist():
            held = [place for place in own if found.offsets[place][1] > first and found.offsets[place][0] < behind]
            if held and (behind <= end or not found.overflowing):
                answers.append((held[0], held[-1]))
        if not own or not answers:
            most = self.settings.max_length
            raise InputError(f"an answer lies behind the {most} tokens at which texts are cut: raise max_length.")
        return np.array([(own[0], own[-1]), (0, 0) if optional else (-1, -1), *answers], np.int64)

    def length(self, sample: Any) -> int:
        """How many tokens a sample has."""
        return len(sample[0])

    def alone(self, feeds: Mapping[str, Array]) -> tuple[dict[str, Array], slice] | None:
        """One sample's inputs without the padding, and where in the padded they stand; None where there is none."""
        s = self.settings
        here = feeds[s.mask][0] > 0 if s.mask in self.fills else feeds[s.ids][0] != self._pad
        places = np.flatnonzero(here)
        if not len(places) or len(places) == len(here):
            return None
        part = slice(places[0], places[-1] + 1)
        return {name: value[:, part] if name in self.fills else value for name, value in feeds.items()}, part

    def batch(self, samples: Sequence[Any]) -> dict[str, Array]:
        """Numbers of tokens, mask and texts, each (samples, length)."""
        s = self.settings
        longest = max(len(ids) for ids, _ in samples)
        length = next((n for n in s.lengths if n >= longest), s.max_length if s.lengths else longest)
        ids = np.full((len(samples), length), self._pad, np.int64)
        mask, types = np.zeros((2, len(samples), length), np.int64)
        for row, (own, kinds) in enumerate(samples):
            place = slice(length - len(own), None) if s.left else slice(len(own))
            ids[row, place], mask[row, place], types[row, place] = own, 1, kinds
        made = {s.ids: ids, s.mask: mask, s.types: types}
        return {name: made[name].astype(dtype) for name, dtype in self._dtypes.items()}
