"""report.json: everything, raw samples too; its JSON schema stands beside this file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from optimize.report import Report

SCHEMA_FILE = Path(__file__).with_name("schema.json")


def write(report: Report, folder: Path) -> Path:
    """Write report.json into a folder."""
    path = folder / "report.json"
    path.write_text(report.model_dump_json(by_alias=True, indent=1) + "\n", encoding="utf-8")
    return path


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of report.json."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Report.model_json_schema(by_alias=True)}


if __name__ == "__main__":  # after a change of the report: python -m optimize.report.json
    SCHEMA_FILE.write_text(json.dumps(schema(), indent=1) + "\n", encoding="utf-8")
