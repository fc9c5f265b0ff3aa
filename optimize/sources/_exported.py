"""Programs that torch wrote: `.pt2` by torch.export.save, TorchScript by torch.jit.save. Both hold pickles and code.

Neither can be trained: the one is a graph of ops, the other is compiled. The original runs in torch as it is.
"""

import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.errors import InputError
from runtime.tensors import TensorSpec

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

SUFFIXES = (".pt2", ".pt", ".ts", ".jit", ".torchscript")
_TRAINING = {"aten.dropout.default": 2, "aten.batch_norm.default": 5}  # op to where it is told whether it trains


def is_program(place: str) -> bool:
    """A path that ends as torch's programs do; a `.pt` may be a checkpoint all the same, which `load` says."""
    return place.endswith(SUFFIXES)


def load(path: Path, given: tuple[TensorSpec, ...], trust: bool) -> tuple["nn.Module", tuple[TensorSpec, ...]]:
    """The module that runs a program, and its inputs: a `.pt2` knows them, of TorchScript they are those given.

    Raises:
        InputError: it is not trusted, is no program, is damaged, or takes what is no tensor.
    """
    import torch

    scripted = _is_scripted(path)
    if not trust:
        raise InputError(
            f"{path} holds pickles and code, which can do anything when it is opened: --trust where you know whose it "
            "is (in a recipe: [model] trust = true)."
        )
    try:
        if scripted:
            load: Callable[..., nn.Module] = torch.jit.load  # which torch has not annotated
            return load(path, map_location="cpu").eval(), given
        program = read(path)
        known = _inputs(program, path)
        _check_mode(program, path)
        return program.module(), _fitting(given, known, path)
    except InputError:
        raise
    except Exception as error:  # torch raises what it likes for a damaged file, or an op that is not registered here
        words = " ".join(str(error).split())[:300]
        raise InputError(f"{path} cannot be loaded by torch {torch.__version__}: {words}") from error


def read(path: Path) -> "ExportedProgram":
    """A `.pt2` as it is, for torch's exporter; whoever calls this was allowed to unpickle."""
    import torch

    return torch.export.load(path)


def _is_scripted(path: Path) -> bool:
    """Whether it is TorchScript and no exported program; told by the names in the archive, which runs nothing."""
    if not path.is_file():
        raise InputError(f"no such file: {path} (the model).")
    names: list[str] = []
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    if any("/data/aotinductor/" in name for name in names):
        raise InputError(f"{path} was compiled for one machine by AOTInductor: give what torch.export.save wrote.")
    if any(name.endswith(("models/model.json", "serialized_exported_program.json")) for name in names):
        return False
    if any("/code/" in name for name in names):
        return True
    with path.open("rb") as stream:
        pickled = stream.read(1) == b"\x80"  # as torch.save wrote before it wrote archives
    if pickled or any(name.endswith("data.pkl") for name in names):
        raise InputError(
            f"{path} is a checkpoint, weights without a program: give file.py:callable that builds the module, and "
            f"--weights {path.name}."
        )
    raise InputError(f"{path} is neither an exported program (torch.export.save) nor TorchScript (torch.jit.save).")


def _inputs(program: "ExportedProgram", path: Path) -> tuple[TensorSpec, ...]:
    """What the program takes; a length that is open is called `batch` where it comes first, else by input and place."""
    import torch

    names = program.graph_signature.user_inputs
    arguments, keywords = program.example_inputs or ((), {})
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    odd = [str(name) for name in names if not isinstance(values.get(str(name)), torch.Tensor)]
    if odd or keywords or (arguments and len(arguments) != len(names)):
        what = ", ".join(odd or keywords or map(str, names))
        raise InputError(
            f"{path} does not take tensors one after the other: {what}. Export a module whose forward does."
        )
    axes: dict[str, str] = {}
    specs = []
    for name in map(str, names):
        shape = tuple(_axis(size, place, name, axes) for place, size in enumerate(values[name].shape))
        specs.append(TensorSpec(name, str(values[name].dtype).removeprefix("torch."), shape))
    return tuple(specs)


def _axis(size: Any, place: int, name: str, axes: dict[str, str]) -> int | str:
    """A length, or its axis' name: the same for the same symbol of torch's."""
    if isinstance(size, int):
        return size
    wanted = "batch" if place == 0 and "batch" not in axes.values() else f"{name}_{place}"
    return axes.setdefault(str(size), wanted)


def _fitting(given: tuple[TensorSpec, ...], known: tuple[TensorSpec, ...], path: Path) -> tuple[TensorSpec, ...]:
    """What the user says of the inputs, where that is the program's under other names; else the program's."""
    if not given:
        return known
    fits = len(given) == len(known) and all(
        one.dtype == other.dtype
        and len(one.shape) == len(other.shape)
        and all(isinstance(b, str) or a == b for a, b in zip(one.shape, other.shape, strict=True))
        for one, other in zip(given, known, strict=True)
    )
    if not fits:
        raise InputError(f"{path} takes {_listed(known)}, and the inputs that were given are {_listed(given)}.")
    return given


def _check_mode(program: "ExportedProgram", path: Path) -> None:
    """Raise InputError for a program of a module that was training: its answers are drawn by lot."""
    for node in program.graph.nodes:
        place = _TRAINING.get(str(node.target))
        if place is not None and len(node.args) > place and node.args[place] is True:
            raise InputError(f"{path} was exported in training mode: call module.eval() before torch.export.export.")


def _listed(specs: Iterable[TensorSpec]) -> str:
    return ", ".join(map(str, specs))
