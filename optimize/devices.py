"""Measurements from devices, put into the report of the run that made the bundle: a column a device."""

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from optimize.folder import claimed
from optimize.report import Device, Report, html, markdown
from optimize.report import json as as_json
from runtime import bundle as bundles
from runtime.__main__ import SCHEMA
from runtime.errors import InputError, WorkError


def add(folder: Path, files: Sequence[Path]) -> Report:
    """Write the report of a run anew, with what `python -m runtime bench BUNDLE --out FILE` wrote elsewhere.

    A device that is in the report already is replaced.

    Raises:
        InputError: a file is no such result, or is of another bundle; nothing was written.
        WorkError: the folder cannot be written.
    """
    report = as_json.read(folder)
    manifest = folder / "bundle" / bundles.MANIFEST
    if not manifest.is_file():
        raise InputError(f"{folder} has no bundle that could have been measured elsewhere.")
    own, devices = bundles.sha256(manifest), {device.device: device for device in report.devices}
    for file in files:
        found = read(file)
        if found.bundle != own:
            raise InputError(
                f"{file} was measured with another bundle (sha256 {found.bundle[:12]}…, the one in {folder} has "
                f"{own[:12]}…): copy {folder / 'bundle'} to the device and measure again."
            )
        devices[found.device] = found
    report = report.model_copy(update={"devices": list(devices.values())})
    try:
        with claimed(folder), tempfile.TemporaryDirectory(prefix=".work-", dir=folder) as work:
            for path in [form.write(report, Path(work)) for form in (html, as_json, markdown)]:
                shutil.move(path, folder / path.name)
    except OSError as error:
        raise WorkError(f"{error.strerror or error}: {error.filename or folder}") from error
    return report


def read(file: Path) -> Device:
    """A device's result.

    Raises:
        InputError: it is not there, damaged, or of a newer runtime.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        newer = found.get("schema") if isinstance(found, dict) else None
        if isinstance(newer, int) and newer > SCHEMA:
            raise InputError(
                f"{file} is of format {newer}, this version reads up to {SCHEMA}: pip install -U edge-optimize"
            )
        return Device.model_validate(found)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}.") from error
    except (ValidationError, ValueError) as error:
        words = " ".join(str(error).split())[:200]
        raise InputError(f"{file} is not what `python -m runtime bench BUNDLE --out FILE` writes: {words}") from error
