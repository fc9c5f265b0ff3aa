"""What the user gave, as sha256 sums: a model's weights, and the code that builds it and that steps call."""

import hashlib

from optimize.models import OnnxModel, TorchModel
from optimize.steps import Settings
from optimize.usercode import split_place, user_files
from runtime.bundle import sha256
from runtime.cache import address, digest
from runtime.engines import onnx_files


def origin(model: TorchModel | OnnxModel) -> str:
    """The address of what the user gave: weights and buffers, and every file of theirs that building it read."""
    code = [] if isinstance(model, OnnxModel) else [*user_files(), *([model.file] if model.file else [])]
    return address(weights=weights(model), code=[sha256(path) for path in code])


def weights(model: TorchModel | OnnxModel) -> str:
    """One sum of an ONNX file with its external data, or of a module's weights and buffers."""
    if isinstance(model, OnnxModel):
        return digest(list(onnx_files(model.path).values()))
    import torch

    # what weights do not tell
    found = hashlib.sha256(model.module.extra_repr().encode() if isinstance(model.module, torch.nn.Module) else b"")
    for name, value in model.module.state_dict().items():
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        flat = value.detach().cpu().contiguous().flatten()
        found.update(flat.view(torch.uint8).numpy().data)  # bytes, since numpy has no bfloat16
    return found.hexdigest()


def code(step: Settings) -> list[str]:
    """The sums of every file of the user's that a step's settings name as file.py:function."""
    todo, places = [step.model_dump()], []
    while todo:
        for value in todo.pop().values():
            if isinstance(value, dict):
                todo.append(value)
            elif isinstance(value, str) and ".py:" in value:
                places.append(split_place(value)[0])
    return [sha256(place) for place in places]
