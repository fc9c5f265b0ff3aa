"""PyTorch: a callable that returns the module, with weights that need no unpickling; or a program that torch wrote."""

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimize.models import TorchModel
from optimize.sources import ModelSpec, Original, _exported
from optimize.usercode import load_callable
from runtime.engines import filled
from runtime.errors import EngineError, InputError
from runtime.host import cores
from runtime.tensors import Array, TensorSpec

if TYPE_CHECKING:
    import torch
    from torch import nn

GIVES = TorchModel
FORKABLE = ("optimize.sources.torch", "torch")
SHOWN = 5  # keys that differ, in a message
_NESTED = ("state_dict", "model_state_dict", "model")  # where training scripts put the weights


def claims(place: str) -> bool:
    """`file.py:callable`, or a path that ends in .pt2, .pt, .ts, .jit or .torchscript."""
    return ".py:" in place or _exported.is_program(place)


def load(spec: ModelSpec) -> Original:
    """Build the module, fill in the weights, put it into eval mode; or load a program as it is."""
    from torch import nn

    if _exported.is_program(spec.place):
        if spec.weights:
            raise InputError(f"{spec.place} holds its own weights; leave out {spec.weights}.")
        file = Path(spec.place)
        program, inputs = _exported.load(file, spec.inputs, spec.trust)
        return Original(program, inputs, lambda: TorchSession(program, inputs, spec.threads), file=file)
    module = load_callable(spec.place, "model")
    try:
        built = module()
    except Exception as error:
        raise InputError(f"{spec.place} raised {type(error).__name__}: {error}") from error
    if not isinstance(built, nn.Module):
        hint = " For scikit-learn say source = 'sklearn' in [model]." if hasattr(built, "predict") else ""
        raise InputError(f"{spec.place} returned a {type(built).__name__}, not a torch.nn.Module.{hint}")
    notes = fill(built, Path(spec.weights), spec.trust) if spec.weights else ()
    built.eval()
    return Original(built, spec.inputs, lambda: TorchSession(built, spec.inputs, spec.threads), notes)


class TorchSession:
    """A module in eval mode, called under inference mode."""

    def __init__(self, module: "nn.Module", inputs: tuple[TensorSpec, ...], threads: int | None) -> None:
        import torch

        # set after the user's module was built, since building it may have set them
        torch.set_num_threads(threads or cores())
        self.threads = torch.get_num_threads()
        self._torch = torch
        self._module = module
        self._inputs = inputs

    def run(self, feeds: Mapping[str, Array], out: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """Outputs by name; see `runtime.engines.Session`."""
        torch = self._torch
        try:
            with torch.inference_mode():
                results = named_outputs(self._module(*tensors(feeds, self._inputs)))
                found = {name: value.numpy() for name, value in results.items()}
        except Exception as error:
            raise EngineError(f"the model raised {type(error).__name__}: {error}") from error
        return filled(out, found)

    def inside(self, feeds: Mapping[str, Array]) -> Callable[[], object]:
        """The module on tensors; see `runtime.engines.Session`."""
        arguments = tensors(feeds, self._inputs)

        def once() -> object:
            with self._torch.inference_mode():
                return self._module(*arguments)

        return once

    def precision(self) -> dict[str, int]:
        """Of the parameters, since torch computes in their format."""
        counts: dict[str, int] = {}
        short = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "float64": "f64"}
        for parameter in self._module.parameters():
            name = str(parameter.dtype).removeprefix("torch.")
            counts[short.get(name, name)] = counts.get(short.get(name, name), 0) + 1
        return counts

    def close(self) -> None:
        """Nothing is held but the module."""


def tensors(feeds: Mapping[str, Array], inputs: tuple[TensorSpec, ...]) -> list["torch.Tensor"]:
    """The arguments of `forward`, in the order in which the inputs are declared."""
    import torch

    # a copy only where torch would warn: an array that may not be written
    return [
        torch.from_numpy(value if value.flags.writeable else value.copy())
        for value in (feeds[spec.name] for spec in inputs)
    ]


def named_outputs(result: Any) -> dict[str, "torch.Tensor"]:
    """What `forward` returned, by name: a tensor is `output`, a tuple output_0, output_1, a mapping its own keys."""
    import torch

    if isinstance(result, torch.Tensor):
        return {"output": result}
    if isinstance(result, Mapping):
        return {str(name): value for name, value in result.items() if isinstance(value, torch.Tensor)}
    if isinstance(result, (tuple, list)) and all(isinstance(value, torch.Tensor) for value in result):
        return {f"output_{i}": value for i, value in enumerate(result)}
    raise InputError(f"forward returned a {type(result).__name__}; it must be a tensor, a tuple or a dict of tensors.")


def fill(module: "nn.Module", path: Path, trust: bool) -> tuple[str, ...]:
    """Load a checkpoint into a module; returns what was done to make it fit.

    Raises:
        InputError: it cannot be read without unpickling, or its keys or shapes are not the module's.
    """
    state = _state(path, trust)
    notes: list[str] = []
    for key in _NESTED:
        inner = state.get(key)
        if isinstance(inner, Mapping):
            state = dict(inner)
            notes.append(f"weights taken from '{key}' in {path.name}")
            break
    if state and all(key.startswith("module.") for key in state):  # DataParallel's wrapping
        state = {key.removeprefix("module."): value for key, value in state.items()}
        notes.append(f"the prefix 'module.' was taken off the keys of {path.name}")
    own = module.state_dict()
    missing = [f"{key} is missing" for key in own if key not in state]
    surplus = [f"{key} is not in the model" for key in state if key not in own]
    shapes = [
        f"{key} is {tuple(getattr(state[key], 'shape', ()))} in the file, {tuple(own[key].shape)} in the model"
        for key in own
        if key in state and getattr(state[key], "shape", None) != own[key].shape
    ]
    if different := [*shapes, *missing, *surplus]:
        raise InputError(
            f"{path} does not fit the model; {len(different)} keys differ, first: " + "; ".join(different[:SHOWN])
        )
    module.load_state_dict(state)
    return tuple(notes)


def _state(path: Path, trust: bool) -> dict[str, Any]:
    import torch

    if not path.is_file():
        raise InputError(f"no such file: {path} (the weights).")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=not trust)
    except pickle.UnpicklingError as error:
        if trust:
            raise InputError(f"{path} is not a checkpoint that torch can read: {_first_line(error)}") from error
        raise InputError(
            f"{path} cannot be read without unpickling, which runs code from the file. If it is yours, save it anew: "
            "torch.save(model.state_dict(), 'weights.pth'); or allow it: --trust (in a recipe: [model] trust = true)."
        ) from error
    except Exception as error:  # torch and safetensors raise what they like for a damaged file
        raise InputError(f"{path} is not a checkpoint that torch can read: {_first_line(error)}") from error
    if isinstance(state, torch.nn.Module):
        return dict(state.state_dict())
    if not isinstance(state, Mapping):
        raise InputError(f"{path} holds a {type(state).__name__}, not a state dict.")
    return dict(state)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
