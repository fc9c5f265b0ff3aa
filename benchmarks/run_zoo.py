"""The recipes under benchmarks/zoo on real models that nobody here made: what each candidate loses and gains.

    python benchmarks/run_zoo.py --zoo DIR [--quick] [--json FILE] [MODEL ...]

DIR holds common.py and a folder a model. `--quick` runs one model with the shortest measurement.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent / "zoo"
QUICK = ("resnet20",)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = sorted(path.stem for path in HERE.glob("*.toml"))
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(known)}; all by default")
    parser.add_argument("--zoo", required=True, type=Path)
    parser.add_argument("--out", type=Path, help="keep bundles and reports here")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if unknown := set(options.models) - set(known):
        parser.error(f"unknown model {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    os.environ["ZOO"] = str(options.zoo.absolute())

    from optimize import recipe
    from optimize.pipeline import run
    from optimize.report import words

    out = options.out or Path(tempfile.mkdtemp(prefix="zoo-"))
    found = {}
    for name in options.models or (QUICK if options.quick else known):
        changes = ["measure.budget=1"] if options.quick else []
        if name == "squeezenet":
            changes.append(f"model.path={options.zoo.absolute()}/squeezenet_fp16_onnx/SqueezeNet_fp16.onnx")
        report = run(recipe.load(HERE / f"{name}.toml", changes), out=out / name)
        found[name] = report.model_dump(mode="json", by_alias=True, exclude={"recipe"})
        print(f"\n{name}: {out / name / 'report.md'}, {report.seconds:.0f} s")
        rows = [*words.first_lines(report), ""]
        table = words.table(report)
        widths = words.columns(table)
        rows += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
        print("\n".join([*rows, "", *words.headline(report), words.measured_how(report)]))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
