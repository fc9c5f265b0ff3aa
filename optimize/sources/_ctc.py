"""What a model that was trained by CTC says: its best token a frame, repeats as one, without blanks, as a text.

Each frame's best token is taken alone (Graves et al. 2006, "best path"); no language model is asked.
"""

from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from runtime.errors import InputError
from runtime.tensors import Array


@dataclass(frozen=True)
class Decoder:
    """A vocabulary's.

    Attributes:
        tokenizer: of transformers, that has the vocabulary.
        blank: the number of the token that says nothing: the padding's.
    """

    tokenizer: Any
    blank: int

    def texts(self, scores: Array) -> Array:
        """Of scores (samples, frames, tokens), a text a sample.

        Raises:
            InputError: the scores have another shape.
        """
        if scores.ndim != 3:
            raise InputError(f"the output has shape {scores.shape}; what is said needs (samples, frames, tokens).")
        best = (said(row, self.blank) for row in scores.argmax(2).tolist())
        decode = self.tokenizer.decode  # without the special tokens, of which the unknown is one
        return np.array([decode(row, skip_special_tokens=True, group_tokens=False) for row in best])

    def fitted(self, labels: Array) -> Array:
        """Texts in the case that the vocabulary has, where it has but one.

        Raises:
            InputError: they have no letter that it has.
        """
        tokens = set(self.tokenizer.get_vocab()) - set(self.tokenizer.all_special_tokens)
        letters = set("".join(tokens))
        if not any(one.islower() for one in letters):
            labels = np.char.upper(labels)
        elif not any(one.isupper() for one in letters):
            labels = np.char.lower(labels)
        seen = {one for text in labels for one in str(text)} - {" "}
        if seen and not seen & letters:
            shown = "".join(sorted(letters))[:40]
            raise InputError(f"the labels, '{labels[0]}' say, have no letter of the model's vocabulary: {shown}.")
        return labels


def said(tokens: list[int], blank: int) -> list[int]:
    """Tokens of successive frames without repeats, and then without blanks."""
    return [one for one, _ in groupby(tokens) if one != blank]


def decoder(tokenizer: Any, config: Any) -> Decoder | None:
    """Of a model's tokenizer and config; None without a tokenizer or a token to pad with."""
    pads = (getattr(config, "pad_token_id", None), getattr(tokenizer, "pad_token_id", None))
    blank = next((one for one in pads if one is not None), None)
    return None if tokenizer is None or blank is None else Decoder(tokenizer, blank)
