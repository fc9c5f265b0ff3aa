"""What each layer of an engine takes, from the engine's own profile. One file an engine library; look-up lists them.

profile(files, options, feeds, calls) -> list[Layer]    in the order in which they ran
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from runtime import listing
from runtime.errors import EngineError

Kind = Literal["compute", "convert", "move"]
DROPPED = 5  # first calls, which are slower


@dataclass(frozen=True)
class Layer:
    """One layer as it ran.

    Attributes:
        op: in the engine's words.
        ms: a call, the mean.
        precision: int8, f32, bf16 or f16.
        kind: `compute`; `convert` between number formats; `move` of numbers (layouts, shapes).
        origin: names of the source's nodes that were fused into it, where the engine tells.
        kernel: what ran, where the engine tells.
    """

    name: str
    op: str
    ms: float
    precision: str
    kind: Kind
    origin: tuple[str, ...] = ()
    kernel: str = ""


def profiled(
    engine: str, files: Mapping[str, str], options: Mapping[str, Any], feeds: str, names: Sequence[str], calls: int
) -> list[Any]:
    """For a worker's `call`: the layers of an engine as JSON values; `feeds` is an .npz file of the inputs in order.

    Raises:
        EngineError: this engine gives no profile.
    """
    if engine not in listing.names(__name__):
        raise EngineError(f"{engine} gives no profile by layer here; {', '.join(listing.names(__name__))} do.")
    with np.load(feeds) as stored:
        arrays = {name: stored[key] for name, key in zip(names, stored.files, strict=True)}
    paths = {role: Path(file) for role, file in files.items()}
    return [asdict(one) for one in listing.get(__name__, engine, "profile").profile(paths, options, arrays, calls)]
