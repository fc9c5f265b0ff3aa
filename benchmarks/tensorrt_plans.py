"""Does TensorRT take what is made for it? Each model as fp32, fp16 and int8, by the program's own steps, built here.

    python benchmarks/tensorrt_plans.py [--zoo DIR] [--quick] [--json FILE] [MODEL ...]

No GPU is needed, and none is used: the parser and the builder are those of tests/tensorrt_cpu. So the table has no
latency. `signal` is that of the ONNX file against the fp32 one, on ONNX Runtime, on data of the split calibrate.
`digits` is the network of the example that comes with the program, `attention` a small encoder on random data, both
with random weights; the others are trained and need the zoo's folder.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

    from optimize.models import OnnxModel, TorchModel
    from runtime.tensors import Array

    Source = tuple[torch.nn.Module, Array]

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "zoo"), str(HERE.parent / "tests")]
PRECISIONS: dict[str, tuple[str, ...]] = {"fp32": (), "fp16": ("cast_fp16",), "int8": ("quantize_static", "cast_fp16")}
AXES = {"batch": {"min": 1, "best": 1, "max": 16}}
CALIBRATE = 128  # samples


def digits() -> Source:
    """The example's network untrained, on its real pictures: training would take minutes and change no layer."""
    import torch

    from optimize.examples.digits import data, model

    torch.manual_seed(0)
    return model.build(), data.splits()["calibrate"][0][:CALIBRATE]


def attention() -> Source:
    """Two encoder layers, 64 wide, 4 heads, 32 tokens; the norms and the softmax in their ONNX ops."""
    import torch
    from torch import nn

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.LayerNorm(64), nn.LayerNorm(64)
            self.qkv, self.out = nn.Linear(64, 192), nn.Linear(64, 64)
            self.up, self.down = nn.Linear(64, 256), nn.Linear(256, 64)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = self.qkv(self.first(x)).unflatten(-1, (3, 4, 16)).permute(2, 0, 3, 1, 4).unbind(0)
            seen = torch.softmax(q @ k.transpose(-1, -2) / 4, -1) @ v
            x = x + self.out(seen.transpose(1, 2).flatten(2))
            found: torch.Tensor = x + self.down(nn.functional.gelu(self.up(self.second(x))))
            return found

    torch.manual_seed(0)
    net = nn.Sequential(Layer(), Layer(), nn.LayerNorm(64))
    return net, np.random.default_rng(0).standard_normal((CALIBRATE, 32, 64)).astype(np.float32)


def resnet20() -> Source:
    return _zoo("resnet20", "cifar10")


def resnet56() -> Source:
    return _zoo("resnet56", "cifar10")


def mobilenet_v1_025() -> Source:
    return _zoo("mobilenet_v1_025", "mobilenet")


def _zoo(model: str, splits: str) -> Source:
    import data
    import models

    found = getattr(data, splits)()["calibrate"]
    if callable(found):
        parts = []
        for x, _ in found():
            parts.append(x)
            if sum(map(len, parts)) >= CALIBRATE:
                break
        found = (np.concatenate(parts),)
    return getattr(models, model)(), found[0][:CALIBRATE].astype(np.float32)


OWN = (digits, attention)
ZOO = (resnet20, resnet56, mobilenet_v1_025)


def plans(source: Callable[[], Source], folder: Path) -> Iterator[dict[str, Any]]:
    """One row a precision."""
    import targets
    from optimize.data import NAMES, from_arrays
    from optimize.models import TorchModel
    from optimize.steps import Context, get
    from optimize.verify import judge, signal_to_noise
    from runtime import engines
    from runtime.errors import Error
    from runtime.host import facts
    from runtime.tensors import TensorSpec

    module, x = source()
    splits = from_arrays({name: {"x": x} for name in NAMES}, source.__name__)
    scheme = targets.get("tensorrt").scheme("host", facts())
    count = 0

    def apply(step: str, model: TorchModel | OnnxModel) -> tuple[OnnxModel, list[str]]:
        nonlocal count
        count += 1
        inner = folder / str(count)
        inner.mkdir()
        context = Context(splits.calibrate, AXES, scheme, inner)
        made: OnnxModel = get(step)()(model, context)
        return made, context.notes

    given = TorchModel(module.eval(), (TensorSpec("x", "float32", ("batch", *x.shape[1:])),))
    model, _ = apply("simplify", apply("export", given)[0])
    feeds = {"x": x[:16]}
    wanted = judge(model).run(feeds)
    limits = (("min", 1), ("opt", 1), ("max", 16))
    profiles = {"x": {limit: [batch, *x.shape[1:]] for limit, batch in limits}}
    for precision, steps in PRECISIONS.items():
        row: dict[str, Any] = {"model": source.__name__, "precision": precision, "built": False}
        made, notes = model, list[str]()
        try:
            for step in steps:
                made, more = apply(step, made)
                notes += more
            row |= {"onnx_bytes": made.path.stat().st_size, "notes": notes}
            if steps:
                row["signal_db"] = round(signal_to_noise(judge(made).run(feeds), wanted), 1)
            out = folder / precision
            out.mkdir()
            begun = time.perf_counter()
            files = engines.get("tensorrt").compile(made.path, out, {"profiles": profiles, "tf32": False})
            row |= {
                "built": True,
                "seconds": round(time.perf_counter() - begun, 2),
                "bytes": files["model"].stat().st_size,
            }
            listed = json.loads(files["layers"].read_text())["layers"]
            # neither weights nor the arithmetic of shapes
            told = [one for one in listed if one["type"] != "CONSTANT" and one["dtype"] not in ("INT64", "BOOL")]
            counts = Counter(f"{one['type'].lower()} {one['dtype'].lower()}" for one in told)
            row["layers"] = dict(counts.most_common())
        except Error as error:
            row["reason"] = str(error)
        yield row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = {source.__name__: source for source in (*OWN, *ZOO)}
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(known)}")
    parser.add_argument("--zoo", type=Path, help="the folder with common.py and a folder a model")
    parser.add_argument("--quick", action="store_true", help="digits only")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if unknown := set(options.models) - set(known):
        parser.error(f"unknown model {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    if options.zoo:
        os.environ["ZOO"] = str(options.zoo.absolute())

    import tensorrt_cpu

    if lacking := tensorrt_cpu.lacking():
        parser.error(lacking)
    sys.modules["tensorrt"] = tensorrt_cpu.enable()
    names = options.models or [source.__name__ for source in (OWN[:1] if options.quick else OWN)]
    if options.zoo and not options.models and not options.quick:
        names += [source.__name__ for source in ZOO]
    rows = []
    heads = f"{'model':18}{'precision':11}{'built':7}{'seconds':>8}{'plan MB':>9}{'ONNX MB':>9}{'signal':>9}"
    print(f"{heads}  layers by type")
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            for row in plans(known[name], Path(folder)):
                rows.append(row)
                layers = ", ".join(f"{count} {kind}" for kind, count in list(row.get("layers", {}).items())[:6])
                signal = f"{row['signal_db']} dB" if "signal_db" in row else ""
                print(
                    f"{name:18}{row['precision']:11}{'yes' if row['built'] else 'no':7}{row.get('seconds', ''):>8}"
                    f"{row.get('bytes', 0) / 1e6:>9.2f}{row.get('onnx_bytes', 0) / 1e6:>9.2f}{signal:>9}  "
                    f"{layers or row.get('reason', '')}",
                    flush=True,
                )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0 if all(row["built"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
