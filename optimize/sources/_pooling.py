"""What sentence-transformers does after the model, as its `modules.json` says: one vector of a text's tokens."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from runtime.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

MODES = ("mean", "cls", "max")
_OLD = {"pooling_mode_cls_token": "cls", "pooling_mode_max_tokens": "max", "pooling_mode_mean_tokens": "mean"}


@dataclass(frozen=True)
class Pooling:
    """How vectors of tokens become one of the text.

    Attributes:
        folder: the model's.
        mode: of `MODES`.
        unit: divided by its length.
        max_length: tokens; None where it is not said.
    """

    OUTPUT: ClassVar[str] = "sentence_embedding"
    folder: Path
    mode: str
    unit: bool
    max_length: int | None

    @property
    def words(self) -> str:
        """For a note."""
        return f"the {self.mode} of its tokens' vectors{', of length 1,' if self.unit else ''}"

    def pooled(self, tokens: "Tensor", mask: "Tensor") -> "Tensor":
        """Of (batch, length, width) and the mask (batch, length): (batch, width)."""
        import torch

        here = mask[:, :, None].to(tokens.dtype)
        if self.mode == "cls":
            found = tokens[:, 0]
        elif self.mode == "max":
            found = tokens.masked_fill(here == 0, torch.finfo(tokens.dtype).min).amax(1)
        else:
            found = (tokens * here).sum(1) / here.sum(1).clamp(min=1e-9)
        return torch.nn.functional.normalize(found, dim=1) if self.unit else found


def read(root: Path) -> Pooling | None:
    """The pooling of a folder; None where it is not one of sentence-transformers.

    Raises:
        InputError: it does what is not done here.
    """
    if not (root / "modules.json").is_file():
        return None
    try:
        modules = [(str(one["type"]).rpartition(".")[2], root / one["path"]) for one in _json(root / "modules.json")]
        kinds = [kind for kind, _ in modules]
        if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
            raise InputError(
                f"{root}: its modules are {', '.join(kinds)}; what is done here is Transformer, Pooling and Normalize."
            )
        folder, asked = modules[0][1], _json(modules[1][1] / "config.json")
        modes = [mode for key, mode in _OLD.items() if asked.get(key)]
        modes += [key for key in asked if key.startswith("pooling_mode_") and key not in _OLD and asked[key] is True]
        mode = asked.get("pooling_mode", modes[0] if len(modes) == 1 else modes or "mean")
        length = root / "sentence_bert_config.json"
        most = _json(length).get("max_seq_length") if length.is_file() else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{root}: what sentence-transformers wrote is damaged: {error}") from error
    if mode not in MODES:
        raise InputError(f"{root}: it pools by {mode}; what is done here is one of {', '.join(MODES)}.")
    return Pooling(folder, str(mode), "Normalize" in kinds, most)


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
