"""Every model of the zoo that nobody here made, by its recipe under benchmarks/zoo: one table.

    python benchmarks/zoo.py --zoo DIR [--quick] [--json FILE] [--out DIR] [MODEL ...]

DIR holds common.py and a folder a model. Of each: what its card's own script prints here, what the card says, what the
original comes to here on test; and of each target the chosen candidate's metric and its time against the original,
the plain engine and the vendor's default, with what failed and why. `--quick`: one model, the shortest measurement.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "zoo"
QUICK = ("kws",)
COLUMNS = (
    "model", "task", "source", "card", "script", "ours", "target", "chosen", "metric", "drop", "verdict",
    "x original", "x plain", "x default", "failed",
)  # fmt: skip


@dataclass(frozen=True)
class Card:
    """What a model's card says, and how its own script is run.

    Attributes:
        folder: in the zoo.
        says: the figure.
        prints: what the script prints before it.
        same: its samples are those of the recipe's test split, and the metric is the same function.
    """

    folder: str
    task: str
    says: float
    prints: str
    arguments: tuple[str, ...] = ()
    same: bool = False


CARDS = {
    "resnet20": Card("resnet_cifar10", "classification", 0.8103, r"resnet20: .*top1 ", ("20",), same=True),
    "resnet56_int8": Card("resnet_cifar10", "classification", 0.8320, r"resnet56: .*top1 ", ("56",), same=True),
    "mobilenet_v1_025": Card("mobilenet_v1_025_224", "classification", 0.588, r"top1 "),
    "squeezenet": Card("squeezenet_fp16_onnx", "classification", 0.608, r"onnx fp16 file: top1 "),
    "minilm": Card("minilm_l6_v2", "sentence similarity", 0.8203, r"STS-B test: .*spearman ", same=True),
    "fastestdet": Card("fastestdet", "detection", 0.2716, r"val2017 .*AP50 "),
    "espnetv2": Card("espnetv2_pascal", "segmentation", 0.468, r"COCO val .*mIoU \(classes present\) "),
    "kws": Card("mlperftiny_kws_dscnn", "keyword spotting", 0.915, r"top1 "),
    "dncnn": Card("dncnn_25", "denoising", 30.458, r"denoised "),
    "silero_vad": Card("silero_vad", "voice activity", 1.0, r"silero_vad\.onnx: .*TorchScript "),
}
FILES = {"squeezenet": "squeezenet_fp16_onnx/SqueezeNet_fp16.onnx", "silero_vad": "silero_vad/silero_vad.onnx"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(CARDS)}; all by default")
    parser.add_argument("--zoo", required=True, type=Path)
    parser.add_argument("--out", type=Path, help="keep bundles and reports here")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if unknown := set(options.models) - set(CARDS):
        parser.error(f"unknown model {', '.join(sorted(unknown))}; known: {', '.join(CARDS)}")
    zoo = options.zoo.absolute()
    os.environ["ZOO"] = str(zoo)
    out = options.out or Path(tempfile.mkdtemp(prefix="zoo-"))
    found: list[dict[str, Any]] = []
    for name in options.models or (QUICK if options.quick else CARDS):
        found += rows_of(name, zoo, out / name, options.quick)
        print(f"{name}: {found[-1]['failed'] or out / name / 'report.html'}", file=sys.stderr)
        if options.json:  # after each: hours are not lost with the last
            from runtime import host

            options.json.write_text(json.dumps({"machine": host.facts().to_json(), "rows": found}, indent=1) + "\n")
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    for row in found:
        print("| " + " | ".join(_cell(row[column]) for column in COLUMNS) + " |")
    return 0


def rows_of(name: str, zoo: Path, out: Path, quick: bool) -> list[dict[str, Any]]:
    """A row a target of the recipe; one row where the run failed."""
    from optimize import recipe
    from optimize.pipeline import run
    from runtime.errors import Error

    card = CARDS[name]
    row = dict.fromkeys(COLUMNS) | {"model": name, "task": card.task, "card": card.says, "script": printed(card, zoo)}
    changes = ["measure.budget=1"] if quick else []
    if name in FILES:
        changes.append(f"model.path={zoo / FILES[name]}")
    asked = recipe.load(HERE / f"{name}.toml", changes)
    row["source"] = asked.model_spec().source
    try:
        report = run(asked, out=out)
    except Error as error:
        return [row | {"failed": str(error)}]
    original = report.original.accuracy
    row["ours"] = original.value if original else None
    found = []
    for target in asked.targets:
        lost = [f"{one.name}: {one.reason}" for one in report.candidates if one.target == target and one.reason]
        own = row | {"target": target, "failed": "; ".join(lost)}
        if chosen := report.chosen.get(target):
            final = report.headline.targets.get(target) if report.headline else None
            accuracy = report.row(chosen).accuracy
            own |= {"chosen": chosen}
            if accuracy:
                own |= {"metric": accuracy.value, "drop": accuracy.drop, "verdict": accuracy.verdict}
            if final:
                own["x original"] = _interval(final.latency)
                own["x plain"], own["x default"] = _interval(final.ratio_to_plain), _interval(final.ratio_to_default)
        found.append(own | {"seconds": report.seconds, "notes": list(report.notes)})
    return found


def printed(card: Card, zoo: Path) -> float | None:
    """What a card's own script comes to here; None where it does not say it."""
    script = zoo / card.folder / "load_and_eval.py"
    done = subprocess.run(
        [sys.executable, str(script), *card.arguments], capture_output=True, text=True, timeout=1800, check=False
    )
    seen = re.search(card.prints + r"([0-9.]+)", done.stdout)
    return float(seen[1]) if seen else None


def _interval(ratio: Any) -> list[float] | None:
    return None if ratio is None or ratio.ratio is None else [ratio.ratio, ratio.low, ratio.high]


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return f"{value[0]:.2f} [{value[1]:.2f}, {value[2]:.2f}]"
    return f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)


if __name__ == "__main__":
    sys.exit(main())
