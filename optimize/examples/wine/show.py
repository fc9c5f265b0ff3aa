"""What the model comes to in bytes, of each file and of the weights in it: `python show.py`, beside its recipe."""

import json
from pathlib import Path

import onnx

from runtime import bundle


def weights(place: Path) -> int:
    """Bytes of the numbers in an ONNX file, without the names and the graph around them."""
    return sum(onnx.numpy_helper.to_array(one).nbytes for one in onnx.load(place).graph.initializer)


def show(folder: Path) -> str:
    """Sizes of all candidates, as the report has them, and of the chosen one's weights."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    sizes = ", ".join(f"{row['name']} {row['size_bytes']:,}" for row in report["candidates"] if row["size_bytes"])
    lines = [f"Files, in bytes: {sizes}."]
    made = bundle.read(folder / "bundle")
    for entry in made.engines:
        place = made.resolve(entry.files)["model"]  # equal files are stored once
        if place.suffix != ".onnx":
            continue
        lines.append(f"{entry.name}: {weights(place):,} of its {place.stat().st_size:,} bytes are weights.")
    return "\n".join(lines)


if __name__ == "__main__":
    print(show(Path(__file__).resolve().parents[1]))
