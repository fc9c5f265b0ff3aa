"""Every example, run as `optimize demo NAME` does: what was chosen, beside the trivial baseline.

    python benchmarks/examples.py [--quick] [--json FILE] [NAME ...]

A row an example: its metric on the test split, the baseline's, and the chosen candidate of each target with its speed
over the original's. The exit code is 1 where one is not above its baseline. `--quick`: one example.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from optimize import demo
from runtime import host

QUICK = ("diabetes",)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(demo.names())}; all by default")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if unknown := set(options.names) - set(demo.names()):
        parser.error(f"unknown example {', '.join(sorted(unknown))}; known: {', '.join(demo.names())}")
    rows: list[dict[str, Any]] = []
    for name in options.names or (QUICK if options.quick else demo.names()):
        begun = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            found = demo.demo(name, Path(folder) / "out", 0)
        named = {row.name: row for row in found.report.candidates}
        seen = {target: named[one].latency for target, one in found.report.chosen.items()}
        ratios = {target: latency.ratio for target, latency in seen.items() if latency}
        rows.append(
            {
                "example": name,
                "line": found.line,
                "above": found.above,
                "seconds": time.monotonic() - begun,
                "chosen": found.report.chosen,
                "ratio_to_original": ratios,
            }
        )
        speeds = ", ".join(f"{found.report.chosen[target]} {value:.3g} x" for target, value in ratios.items())
        print(f"{found.line}  {speeds}  ({rows[-1]['seconds']:.0f} s)", flush=True)
        if options.json:  # after each: what was done is not lost with the last
            found_here = {"machine": host.facts().to_json(), "rows": rows}
            options.json.write_text(json.dumps(found_here, indent=1) + "\n", encoding="utf-8")
    return int(not all(row["above"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
