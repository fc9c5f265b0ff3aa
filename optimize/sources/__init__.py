"""One file a framework, each with the same names; look-up lists this folder.

    GIVES            what its models are to steps: TorchModel or OnnxModel
    HUB              (where it is so) a name that is no path may be a model elsewhere
    FORKABLE         (where it bears a fork) what its process imports, as `runtime.forkserver` takes it
    claims(place)    whether this looks like a model of this framework
    load(spec)       -> Original

A worker process imports this module to run an original, so nothing heavy is imported here.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimize.metrics import Decoder
from runtime import listing
from runtime.contender import Contender
from runtime.engines import Session
from runtime.errors import InputError
from runtime.pre import PreSpec
from runtime.streaming import Streaming
from runtime.tensors import TensorSpec

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class ModelSpec:
    """Which model, in plain values, so that another process can load it too.

    Attributes:
        source: a file in this folder.
        place: a path, or `file.py:callable` that returns the model.
        weights: a checkpoint for what the callable returns.
        inputs: names, dtypes and shapes; empty where the file says them itself.
        trust: the user allows unpickling.
        threads: for running the original; None for all cores.
        states: input to the output that gives what the next call takes.
        fixed: input of an ONNX file to the number that it always gets.
    """

    source: str
    place: str
    weights: str | None = None
    inputs: tuple[TensorSpec, ...] = ()
    trust: bool = False
    threads: int | None = None
    states: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, float] = field(default_factory=dict)

    def contender(self, name: str = "original") -> Contender:
        """The original as one more contender, in a process of its own."""
        plain = {**asdict(self), "inputs": [spec.to_json() for spec in self.inputs]}
        streaming = Streaming(self.states, self.inputs) if self.states else None
        modules = getattr(listing.get(__name__, self.source, "source"), "FORKABLE", ())
        return Contender(name, "optimize.sources:open_original", {"spec": plain}, streaming=streaming, modules=modules)


@dataclass(frozen=True)
class Meaning:
    """What a model's answers are.

    Attributes:
        classes: their names in the order of its scores, where it has them.
        agreement: the metric that holds them against the original's, where there are no labels.
        decoder: makes texts of them, of a model that says some.
    """

    classes: tuple[str, ...] = ()
    agreement: str = "agreement"
    decoder: Decoder | None = None


UNKNOWN = Meaning()


@dataclass(frozen=True)
class Original:
    """A user's model in its own framework.

    Attributes:
        model: what steps take: a torch module, or the path of an ONNX file.
        inputs: in order.
        open: makes the session that runs it.
        notes: what a reader of the report should know.
        pre: what makes its inputs of raw samples, where the model comes with it.
        file: the program that torch wrote, of a module that has no code of the user's.
        meaning: of its answers.
    """

    model: "nn.Module | Path"
    inputs: tuple[TensorSpec, ...]
    open: Callable[[], Session]
    notes: tuple[str, ...] = field(default=())
    pre: tuple[PreSpec, ...] = ()
    file: Path | None = None
    meaning: Meaning = UNKNOWN


def claimed(place: str) -> str | None:
    """The source whose kind of place this is; None where no source knows it, of a bundle's folder say."""
    names = listing.names(__name__)
    return next((name for name in names if listing.get(__name__, name, "source").claims(place)), None)


def detect(place: str) -> str:
    """The source whose kind of place this is.

    Raises:
        InputError: no source knows it.
    """
    if name := claimed(place):
        return name
    raise InputError(
        f"'{place}' is not a model that any source knows ({', '.join(listing.names(__name__))}). Give an .onnx file, "
        "file.py:callable or a .pt2 file for a PyTorch module, a .skops file of scikit-learn, XGBoost's .ubj or .json, "
        "LightGBM's .txt, Keras's .keras, TensorFlow's .tflite, or the folder of a SavedModel or of transformers."
    )


def gives(source: str) -> type:
    """What a source's models are to steps."""
    found: type = listing.get(__name__, source, "source").GIVES
    return found


def resolved(source: str, place: str, resolve: Callable[[str], str]) -> str:
    """A place made absolute; the name of a model that lies elsewhere as it is."""
    path = resolve(place)
    hub = getattr(listing.get(__name__, source, "source"), "HUB", False)
    return place if hub and not Path(path).exists() else path


def load(spec: ModelSpec) -> Original:
    """Load a model.

    Raises:
        InputError: it is not there, raises, or does not fit its weights.
    """
    if spec.fixed and spec.source != "onnx":
        raise InputError("[model.fixed] is for the inputs of an ONNX file; fix those of others in their code.")
    original: Original = listing.get(__name__, spec.source, "source").load(spec)
    return original


def open_original(spec: Mapping[str, Any]) -> Session:
    """The opener of `ModelSpec.contender`."""
    inputs = tuple(TensorSpec.from_json(one) for one in spec["inputs"])
    return load(ModelSpec(**{**spec, "inputs": inputs})).open()
