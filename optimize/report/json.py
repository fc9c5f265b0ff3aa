"""report.json: everything, raw samples too; its JSON schema stands beside this file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from optimize.report import SCHEMA, Report
from runtime.errors import InputError

SCHEMA_FILE = Path(__file__).with_name("schema.json")


def write(report: Report, folder: Path) -> Path:
    """Write report.json into a folder."""
    path = folder / "report.json"
    path.write_text(report.model_dump_json(by_alias=True, indent=1) + "\n", encoding="utf-8")
    return path


def read(place: Path) -> Report:
    """Read a report.json, or the one in a folder of `optimize run`.

    Raises:
        InputError: there is none, it is damaged, or a newer version wrote it.
    """
    path = place / "report.json" if place.is_dir() else place
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        newer = found["schema"]
        if isinstance(newer, int) and newer > SCHEMA:
            raise InputError(
                f"{path} is a report of format {newer}, this version reads up to {SCHEMA}: pip install -U edge-optimize"
            )
        return Report.model_validate(found)
    except OSError as error:
        raise InputError(
            f"no report at {path}: {error.strerror or error}. Give a folder that optimize run wrote."
        ) from error
    except (ValueError, KeyError, TypeError) as error:  # pydantic's and json's are ValueErrors
        raise InputError(f"{path} is damaged, or no report: {' '.join(str(error).split())[:200]}") from error


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of report.json."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Report.model_json_schema(by_alias=True)}


if __name__ == "__main__":  # after a change of the report: python -m optimize.report.json
    SCHEMA_FILE.write_text(json.dumps(schema(), indent=1) + "\n", encoding="utf-8")
