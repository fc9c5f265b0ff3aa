"""A tokenizer of transformers as preprocessing that a device does by `tokenizers` alone, held against the original."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime.cache import address, made
from runtime.errors import InputError
from runtime.pre import PreSpec
from runtime.tensors import TensorSpec

MOST, MOST_OF_CONTEXT = 128, 384  # tokens of a text, and of a question with its context, where nobody asks for more
FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
)
TEXTS = ("A short text.", "It's  2 SENTENCES, in ünïcode; 東京 too (100 %).\nThe\tsecond one?", "and so on, " * 400)


def read(transformers: Any, place: str, options: Mapping[str, Any]) -> Any:
    """The tokenizer beside a model; None where there is none."""
    folder = Path(place)
    if folder.is_dir() and not any((folder / name).is_file() for name in FILES):
        return None
    try:
        return transformers.AutoTokenizer.from_pretrained(place, **options)
    except Exception as error:  # whatever a damaged or foreign file brings up
        words = " ".join(str(error).split())[:300]
        raise InputError(f"the tokenizer of {place} cannot be read by transformers: {words}") from error


def spec(
    tokenizer: Any, model: Any, inputs: Sequence[TensorSpec], place: str, longest: int | None, most: int = MOST
) -> tuple[tuple[PreSpec, ...], list[str]]:
    """The preprocessing, and what a reader should know of it.

    Args:
        tokenizer: of transformers.
        model: the module that takes the tokens.
        inputs: the model's.
        place: of both, for messages.
        longest: tokens of a text, where something beside the tokenizer says it.
        most: likewise, where nobody asks for more.

    Raises:
        InputError: it has tokens that the model does not know, or `tokenizers` alone makes others of a text.
    """
    if not tokenizer.is_fast:
        return (), [f"the tokenizer of {place} is Python's own, which no device runs: the model takes arrays"]
    rows = model.get_input_embeddings().num_embeddings
    highest = max(tokenizer.get_vocab().values(), default=0)
    if highest >= rows:
        raise InputError(
            f"the tokenizer of {place} does not fit the model: it has the token number {highest}, and the model knows "
            f"{rows} tokens. Put the model's own tokenizer beside it."
        )
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    text = backend.to_str()

    def make(folder: Path) -> Mapping[str, Any]:
        folder.mkdir(parents=True)
        (folder / "tokenizer.json").write_text(text, encoding="utf-8")
        return {}

    file = made(address(source="transformers", tokenizer=text), "a tokenizer", make).folder / "tokenizer.json"
    names = {one.name for one in inputs}
    limit = min([*_limits(tokenizer, model), *([longest] if longest else [])], default=most)
    pad = tokenizer.pad_token or tokenizer.eos_token
    found = PreSpec(
        "text", (),
        {
            "max_length": min(limit, most),
            "left": tokenizer.padding_side == "left",
            "types": "token_type_ids" if "token_type_ids" in names else "",
            **({"pad": pad} if pad else {}),
        },
        {"tokenizer": str(file)},
    )  # fmt: skip
    _compare(found, tokenizer, inputs, place)
    notes = []
    if limit > most:
        notes.append(
            f"texts are cut at {most} tokens, of {limit} that the model takes; more by "
            f'[[pre]] kind = "text", max_length = {limit}'
        )
    if pad and not tokenizer.pad_token:
        notes.append(f"the tokenizer has no token to pad with: '{pad}', with which a text ends, was taken")
    return (found,), notes


def _limits(tokenizer: Any, model: Any) -> list[int]:
    """How many tokens of a text the tokenizer and the model's places allow."""
    found = [int(tokenizer.model_max_length)] if tokenizer.model_max_length < 1 << 20 else []
    places = getattr(model.config, "max_position_embeddings", None) or getattr(model.config, "n_positions", None)
    if places:
        # RoBERTa and its kin count from behind the number of their padding
        padded = [
            module.padding_idx + 1
            for name, module in model.named_modules()
            if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None
        ]
        found.append(int(places) - max(padded, default=0))
    return found


def _compare(found: PreSpec, tokenizer: Any, inputs: Sequence[TensorSpec], place: str) -> None:
    reader = found.open(inputs)
    samples: list[tuple[str, ...]] = [(text,) for text in TEXTS]
    if found.settings["types"]:
        samples.append(TEXTS[:2])
    for sample in samples:
        wanted = tokenizer(*sample, truncation=True, max_length=found.settings["max_length"])
        ids, types = reader.sample(*sample)
        own = wanted.get("token_type_ids") if found.settings["types"] else None
        if list(ids) != list(wanted["input_ids"]) or (own is not None and list(types) != list(own)):
            raise InputError(
                f"the tokenizer of {place} gives other tokens by transformers than by `tokenizers` alone, which a "
                f"device has, first for {sample[0][:30]!r}: give the model arrays, without its tokenizer beside it."
            )
