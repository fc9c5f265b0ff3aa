"""`torch.compile` by Inductor, weights frozen, in float32 and under autocast in bfloat16. It needs a C++ compiler.

https://docs.pytorch.org/docs/stable/generated/torch.compile.html
"""

from typing import Any

from rivals import Task, Way

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "frozen": {"freeze": True},
    "frozen, max-autotune": {"freeze": True, "mode": "max-autotune"},
    "frozen, bf16": {"freeze": True, "bf16": True},
}


def prepare(task: Task, mode: str = "default", freeze: bool = False, bf16: bool = False) -> list[Way]:
    from torch._inductor.cpp_builder import get_cpp_compiler

    get_cpp_compiler()  # raises where there is none
    arguments = {"spec": task.torch_model, "mode": mode, "freeze": freeze, "bf16": bf16}
    return [Way("torch", "rivals.torch_compile:opened", arguments)]


def opened(spec: dict[str, Any], mode: str, freeze: bool, bf16: bool) -> Any:
    """An opener: the module is compiled with the first call, or taken from Inductor's cache."""
    import torch
    from torch import nn

    from optimize.sources import ModelSpec, load
    from optimize.sources.torch import TorchSession
    from runtime.tensors import TensorSpec

    inputs = tuple(TensorSpec.from_json(one) for one in spec["inputs"])
    torch._inductor.config.freezing = freeze
    module: Any = load(ModelSpec(**{**spec, "inputs": inputs})).model
    module = torch.compile(module, mode=mode)

    class Narrow(nn.Module):
        def forward(self, *inputs: Any) -> Any:
            with torch.autocast("cpu", torch.bfloat16):
                found = module(*inputs)
            return found.float() if isinstance(found, torch.Tensor) else found

    return TorchSession(Narrow() if bf16 else module, inputs, spec["threads"])
