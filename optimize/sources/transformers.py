"""Models of transformers: a folder that `save_pretrained` wrote, or, where the recipe names this source, a hub's name.

The original is the module itself, called with the inputs by name. What it is for stands in its config's
`architectures`. Its tokenizer, or what its image processor does, travels with it.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimize.models import TorchModel
from optimize.sources import Meaning, ModelSpec, Original, _ctc, _extractor, _pooling, _processor, _tokenizer
from optimize.sources.torch import TorchSession
from runtime.cache import address
from runtime.engines import library
from runtime.errors import InputError
from runtime.pre import PreSpec
from runtime.tensors import TensorSpec

if TYPE_CHECKING:
    from torch import nn

GIVES = TorchModel
HUB = True
FORKABLE = ("optimize.sources.transformers", "torch", "transformers.modeling_utils")
CONFIG = "config.json"
# task: transformers' class, its table of architectures, which of the outputs are taken, and what holds them against the
# original's; the first that has it, since BART, say, is a masked language model too
TASKS = {
    "text classification": (
        "AutoModelForSequenceClassification", "MODEL_FOR_SEQUENCE_CLASSIFICATION", ("logits",), "agreement",
    ),
    "token classification": (
        "AutoModelForTokenClassification", "MODEL_FOR_TOKEN_CLASSIFICATION", ("logits",), "token_agreement",
    ),
    "question answering": (
        "AutoModelForQuestionAnswering", "MODEL_FOR_QUESTION_ANSWERING", ("start_logits", "end_logits"),
        "span_agreement",
    ),
    "sequence to sequence": (
        "AutoModelForSeq2SeqLM", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM", ("logits",), "token_agreement",
    ),
    "masked language model": ("AutoModelForMaskedLM", "MODEL_FOR_MASKED_LM", ("logits",), "token_agreement"),
    "language model": ("AutoModelForCausalLM", "MODEL_FOR_CAUSAL_LM", ("logits",), "token_agreement"),
    "image classification": (
        "AutoModelForImageClassification", "MODEL_FOR_IMAGE_CLASSIFICATION", ("logits",), "agreement",
    ),
    "audio classification": (
        "AutoModelForAudioClassification", "MODEL_FOR_AUDIO_CLASSIFICATION", ("logits",), "agreement",
    ),
    "speech recognition by CTC": ("AutoModelForCTC", "MODEL_FOR_CTC", ("logits",), "token_agreement"),
    "speech to text": ("AutoModelForSpeechSeq2Seq", "MODEL_FOR_SPEECH_SEQ_2_SEQ", ("logits",), "token_agreement"),
    "features": ("AutoModel", "MODEL", ("last_hidden_state",), "cosine_similarity"),
}  # fmt: skip
ANSWERS, CTC = "question answering", "speech recognition by CTC"
DECODED = ("sequence to sequence", "speech to text")  # these take the decoder's tokens too
STEPWISE = ("language model", *DECODED)
SHOWN = 5  # weights in a message, and twice as many classes


def claims(place: str) -> bool:
    """A folder whose config.json names a model of transformers."""
    try:
        found = json.loads((Path(place) / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and ("architectures" in found or "model_type" in found)


def load(spec: ModelSpec) -> Original:
    """Read config, weights and preprocessing.

    Raises:
        InputError: it is not there, is for a task that is not known here, lacks weights, or its preprocessing is not
            what the runtime does.
    """
    if spec.weights:
        raise InputError(f"{spec.place} holds its own weights; leave out {spec.weights}.")
    transformers = library("transformers", "transformers")
    root = Path(spec.place)
    pooling = _pooling.read(root)
    folder = pooling.folder if pooling else root
    local = folder.is_dir()
    if not local and not _is_name(spec.place):
        raise InputError(f"no such folder: {root} (the model).")
    place = str(folder) if local else spec.place
    # without a promise nothing of the folder's own code is run; without a name nothing is asked of a network
    options = {"trust_remote_code": spec.trust, "local_files_only": local}
    config = _said(place, "config", lambda: transformers.AutoConfig.from_pretrained(place, **options))
    task = "features" if pooling else _task(config, place)
    model = _weights(place, getattr(transformers, TASKS[task][0]), config, options)
    read = model.main_input_name == "input_ids" or task == CTC
    tokenizer = _tokenizer.read(transformers, place, options) if read else None
    inputs = spec.inputs or tuple(_inputs(model, tokenizer, task))
    if lacking := [one.name for one in inputs if one.name not in _arguments(model)]:
        raise InputError(f"{place} has no input '{lacking[0]}': it takes {', '.join(_arguments(model))}.")
    most = _tokenizer.MOST_OF_CONTEXT if task == ANSWERS else _tokenizer.MOST
    pre, told = _preprocessing(transformers, place, options, model, tokenizer, inputs, pooling, most)
    module = _named(model, [one.name for one in inputs], TASKS[task][2], pooling)
    classes = _classes(config, task)
    decoder = _ctc.decoder(tokenizer, config) if task == CTC else None
    notes = (_about(config, task, transformers.__version__, pooling, classes), *told)
    meaning = Meaning(classes, TASKS[task][3], decoder)
    return Original(module, inputs, lambda: TorchSession(module, inputs, spec.threads), notes, pre, meaning=meaning)


def _is_name(place: str) -> bool:
    """`name` or `owner/name`, as the hub has them."""
    return not Path(place).is_absolute() and place.count("/") <= 1 and not place.startswith(".")


def _said(place: str, what: str, read: Any) -> Any:
    """What `read` gives; whatever transformers raises becomes one sentence."""
    try:
        return read()
    except InputError:
        raise
    except Exception as error:  # OSError, ValueError, pickle's and safetensors' own
        words = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(f"the {what} of {place} cannot be read by transformers: {words}") from error


def _task(config: Any, place: str) -> str:
    tables = library("transformers.models.auto.modeling_auto", "transformers")
    named = (config.architectures or ["none that it names"])[0]
    for task, (_, table, *_) in TASKS.items():
        known = getattr(tables, f"{table}_MAPPING_NAMES").get(config.model_type, ())
        if named in ((known,) if isinstance(known, str) else known):
            return task
    raise InputError(
        f"{place} is for an architecture that is not known here ({named}, model_type {config.model_type}): "
        f"what works is {', '.join(TASKS)}. For another write a file.py:callable that returns its nn.Module."
    )


def _weights(place: str, auto: Any, config: Any, options: Mapping[str, Any]) -> Any:
    """The module in float32 and eval mode; InputError where the file has not all of its weights."""
    import torch

    library("transformers", "transformers").utils.logging.disable_progress_bar()
    model, found = _said(
        place, "weights",
        lambda: auto.from_pretrained(
            place, config=config, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True, **options
        ),
    )  # fmt: skip
    wrong = [*map(str, sorted(found["missing_keys"])), *(str(one[0]) for one in sorted(found["mismatched_keys"]))]
    # what pools a text's first token is read by no output that is taken here
    unfit = [key for key in wrong if not (type(model).__name__.endswith("Model") and ".pooler." in f".{key}")]
    if unfit:
        raise InputError(
            f"{place} lacks {len(unfit)} weights of {type(model).__name__}, or has them in other shapes, the first: "
            f"{', '.join(unfit[:SHOWN])}. They would be random: save the trained model anew by save_pretrained."
        )
    return model.eval()


def _arguments(model: Any) -> list[str]:
    import inspect

    return list(inspect.signature(model.forward).parameters)


def _inputs(model: Any, tokenizer: Any, task: str) -> list[TensorSpec]:
    """What one call takes, as the model, its config and its tokenizer have it."""
    config, main, known = model.config, model.main_input_name, _arguments(model)
    if main == "input_ids":
        wanted = ["input_ids", "attention_mask"]
        if "token_type_ids" in getattr(tokenizer, "model_input_names", ()):
            wanted.append("token_type_ids")
        found = [TensorSpec(name, "int64", ("batch", "length")) for name in wanted if name in known]
    elif main == "pixel_values":
        side = getattr(config, "image_size", None)
        sides = tuple(side) if isinstance(side, list | tuple) else (side, side) if side else ("height", "width")
        found = [TensorSpec(main, "float32", ("batch", getattr(config, "num_channels", 3), *sides))]
    elif main == "input_features":  # Whisper's encoder takes one length; two of these steps become one of its places
        length = 2 * config.max_source_positions if hasattr(config, "max_source_positions") else "length"
        found = [TensorSpec(main, "float32", ("batch", config.num_mel_bins, length))]
    elif main == "input_values" and hasattr(config, "num_mel_bins"):
        found = [TensorSpec(main, "float32", ("batch", config.max_length, config.num_mel_bins))]
    elif main == "input_values":
        found = [TensorSpec(main, "float32", ("batch", "samples"))]
        if getattr(config, "feat_extract_norm", "") == "layer":  # the others were trained with zeros and no mask
            found.append(TensorSpec("attention_mask", "int64", ("batch", "samples")))
    else:
        raise InputError(f"{type(model).__name__} takes '{main}' first: give its inputs, [model.inputs.{main}].")
    if task in DECODED:
        found.append(TensorSpec("decoder_input_ids", "int64", ("batch", "target")))
    return found


def _preprocessing(
    transformers: Any, place: str, options: Mapping[str, Any], model: Any, tokenizer: Any,
    inputs: Sequence[TensorSpec], pooling: _pooling.Pooling | None, most: int,
) -> tuple[tuple[PreSpec, ...], list[str]]:  # fmt: skip
    """What makes the inputs of raw samples, and what a reader should know of it."""
    main = model.main_input_name
    if main == "input_ids" and tokenizer is not None:
        return _tokenizer.spec(tokenizer, model, inputs, place, pooling.max_length if pooling else None, most)
    if main == "pixel_values" and (config := _processor.read(place)):
        return _processor.spec(transformers, place, options, config, inputs)
    if main in ("input_values", "input_features"):
        return _extractor.spec(transformers, place, options, inputs)
    what = "tokenizer" if main == "input_ids" else "image processor"
    return (), [f"{place} has no {what} beside it: the model takes arrays"]


def _named(model: Any, names: Sequence[str], outputs: Sequence[str], pooling: _pooling.Pooling | None) -> "nn.Module":
    """The model as a module that takes its inputs in order and gives tensors by name."""
    from torch import nn

    config = {key: value for key, value in model.config.to_dict().items() if "name_or_path" not in key}
    more = {"use_cache": False} if "use_cache" in _arguments(model) else {}

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *arguments: Any) -> dict[str, Any]:
            given = dict(zip(names, arguments, strict=True))
            found = self.model(**given, **more, return_dict=True)
            if pooling:
                return {pooling.OUTPUT: pooling.pooled(found["last_hidden_state"], given["attention_mask"])}
            return {name: found[name] for name in outputs}

        def extra_repr(self) -> str:
            """What the weights do not tell of the model, so that another is another in the cache."""
            return address(config=config, inputs=names, outputs=outputs, pooling=pooling)[:16]

    return Named().eval()


def _classes(config: Any, task: str) -> tuple[str, ...]:
    """Their names in order; none where the config has but numbers."""
    named = dict(getattr(config, "id2label", None) or {})
    if "classification" not in task or all(name == f"LABEL_{key}" for key, name in named.items()):
        return ()
    return tuple(str(name) for _, name in sorted(named.items()))


def _about(config: Any, task: str, version: str, pooling: _pooling.Pooling | None, classes: Sequence[str]) -> str:
    gives = f"{pooling.words} of each text" if pooling else ", ".join(TASKS[task][2])
    said = f"{(config.architectures or [config.model_type])[0]} by transformers {version}, for {task}: it gives {gives}"
    if classes:
        said += f"; its classes are {', '.join(classes[: 2 * SHOWN])}{' ...' if len(classes) > 2 * SHOWN else ''}"
    if task == "features" and not pooling:
        said += ", a vector for each token or patch, as no pooling of sentence-transformers (modules.json) is beside it"
    if task in STEPWISE:
        said += (
            "; a call computes the scores at every place of the tokens it is given, and keeps no cache: the loop that "
            "writes a text token by token is the caller's"
        )
    return said
