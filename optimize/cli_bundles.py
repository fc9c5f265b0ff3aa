"""The commands on what a run left: its bundle and its report."""

from pathlib import Path
from typing import Annotated

import typer

from optimize.cli import Better, Json, MetricName, Strict, command, print_, verdicts


@command
def recheck(
    bundle: Annotated[str, typer.Argument(help="A folder that optimize run wrote as bundle/.", metavar="BUNDLE")],
    data: Annotated[str, typer.Option(help="data.npz, or file.py:callable: the new data.")],
    metric: MetricName = None,
    better: Better = None,
    max_drop: Annotated[str | None, typer.Option(help="0.005, 0.5pp or 1%; the bundle's own by default.")] = None,
    split: Annotated[str | None, typer.Option(help="calibrate, validate, test or all.")] = None,
    strict: Strict = False,
    json: Json = False,
) -> int:
    """A bundle's engines on new data, against its plain fp32 model, with verdict."""
    from optimize import foreign

    return verdicts(foreign.recheck(bundle, data, metric, better, max_drop, split), strict, json)


@command
def explain(
    bundle: Annotated[str, typer.Argument(help="A folder that optimize run wrote as bundle/.", metavar="BUNDLE")],
    data: Annotated[str | None, typer.Option(help="data.npz, or file.py:callable; else random numbers.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples a call.")] = 1,
    json: Json = False,
) -> int:
    """Why a bundle's engines are fast or slow: the layer to blame, and each layer's time and precision."""
    from optimize import explain

    found = explain.explain(bundle, data, batch)
    print_(found if json else explain.flat(found), json)
    return 0


@command
def report(
    folder: Annotated[Path, typer.Argument(help="A folder of optimize run.", metavar="DIR")],
    add: Annotated[list[Path], typer.Option(help="device.json of python -m runtime bench --out; may be repeated.")],
    json: Json = False,
) -> int:
    """Write a run's report anew, with what devices measured: a column each."""
    from optimize import devices

    devices.add(folder, add)
    print_({"written": [str(folder / name) for name in ("report.html", "report.json", "report.md")]}, json)
    return 0


@command
def sign(
    bundle: Annotated[Path, typer.Argument(help="A folder that optimize run wrote as bundle/.", metavar="BUNDLE")],
    key: Annotated[Path, typer.Option(help="An Ed25519 private key (PEM): openssl genpkey -algorithm ed25519.")],
    json: Json = False,
) -> int:
    """Sign a bundle; runtime.load(verify_key=...) then refuses it once a byte was changed."""
    from runtime import signing

    print_({"signed": str(bundle / signing.SIGNATURE), "public_key": signing.sign(bundle, key)}, json)
    return 0


@command
def join(
    models: Annotated[list[str], typer.Argument(help="NAME=BUNDLE, at least two.", metavar="NAME=BUNDLE...")],
    out: Annotated[Path, typer.Option("--out", help="The folder to write.")] = Path("bundle"),
    json: Json = False,
) -> int:
    """Put several models into one bundle; runtime.load(BUNDLE, model=NAME) takes one of them."""
    from runtime import writer
    from runtime.errors import InputError

    pairs = [one.partition("=") for one in models]
    if odd := next((one for one, (_, sign, _) in zip(models, pairs, strict=True) if not sign), None):
        raise InputError(f"optimize join takes NAME=BUNDLE, detector=out/bundle say; got '{odd}'.")
    named = {name: Path(place) for name, _, place in pairs}
    if len(named) != len(pairs):
        raise InputError("optimize join takes each name once.")
    writer.join(out, named)
    print_({"written": str(out), "models": list(named)}, json)
    return 0


@command
def diff(
    old: Annotated[Path, typer.Argument(help="A folder that optimize run wrote as bundle/, or a .zip of it.")],
    new: Annotated[Path, typer.Argument(help="Another.")],
    json: Json = False,
) -> int:
    """What differs between two bundles; exit code 1 where it decides what they answer."""
    from optimize import diff

    found = diff.diff(old, new)
    print_(found if json else diff.as_text(found), json)
    return int(not found["same"])


@command
def consistency(
    model: Annotated[str, typer.Argument(help="model.onnx, or a bundle.", metavar="MODEL|BUNDLE")],
    data: Annotated[str | None, typer.Option(help="data.npz, or file.py:callable; else random numbers.")] = None,
    json: Json = False,
) -> int:
    """One file on every engine that is here: differences, rows that depend on their neighbours, unequal builds."""
    from optimize import consistency

    found = consistency.consistency(model, data)
    print_(found, json)
    return int(found["differ"] != "none")
