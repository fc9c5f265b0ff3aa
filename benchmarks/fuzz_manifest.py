"""100,000 manifests, damaged in every way that hypothesis finds: each is read or refused, none crashes the reader.

    python benchmarks/fuzz_manifest.py [--quick] [--json FILE]

Of a real bundle's manifest up to three places get another value, lose theirs or take another place's; or bytes of its
text are changed. Anything but a `Bundle` or an error of ours is a crash, and is shown, shrunk, by hypothesis.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from runtime import bundle as bundles
from runtime import host
from runtime.bundle import Bundle
from runtime.errors import BundleError, InputError

SAMPLE = Path(__file__).parents[1] / "tests" / "runtime" / "bundles" / str(bundles.SCHEMA)
VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12),
        st.sampled_from(["..", "/etc/passwd", "golden", "a" * 5000, "\0", "\ud800", "fallback/model.onnx"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=12), inner, max_size=4)),
    max_leaves=8,
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5,000")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cases = 5_000 if options.quick else 100_000
    seen: Counter[str] = Counter()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        fuzz(Path(folder), cases, seen)
    found = {"machine": host.facts().to_json(), "cases": seen.total(), "seconds": time.monotonic() - begun, **seen}
    for key, value in found.items():
        if key != "machine":
            print(f"{key:10} {value:,.0f}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def fuzz(folder: Path, cases: int, seen: "Counter[str]") -> None:
    shutil.copytree(SAMPLE, folder / "bundle")
    place = folder / "bundle" / bundles.MANIFEST
    text = place.read_text(encoding="utf-8")

    @settings(
        max_examples=cases, deadline=None, database=None, suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )  # fmt: skip
    @given(st.data())
    def one(data: Any) -> None:
        place.write_bytes(in_bytes(text, data) if data.draw(st.booleans()) else in_values(text, data))
        try:
            assert isinstance(bundles.read(folder / "bundle"), Bundle)
            seen["read"] += 1
        except (BundleError, InputError):
            seen["refused"] += 1

    one()


def in_bytes(text: str, data: Any) -> bytes:
    raw = bytearray(text.encode())
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, len(raw) - 1), st.integers(0, 255)), max_size=4)):
        raw[at] = value
    return bytes(raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.integers(0, 9)) == 0 else raw)


def in_values(text: str, data: Any) -> bytes:
    manifest = json.loads(text)
    for _ in range(data.draw(st.integers(1, 3))):
        places = list(inside(manifest))
        holder, key = places[data.draw(st.integers(0, len(places) - 1))]
        match data.draw(st.integers(0, 3)):
            case 0:
                del holder[key]
            case 1:
                other, place = places[data.draw(st.integers(0, len(places) - 1))]
                holder[key] = json.loads(json.dumps(other[place]))
            case _:
                holder[key] = data.draw(VALUES)
        if not manifest:
            break
    return json.dumps(manifest).encode(errors="surrogatepass")


def inside(value: Any) -> Any:
    """Every holder and key of a JSON value."""
    items = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    for key, inner in items:
        yield value, key
        yield from inside(inner)


if __name__ == "__main__":
    sys.exit(main())
