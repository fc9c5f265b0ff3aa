"""What is inside a bundle and what it was made with: a bill of materials, CycloneDX 1.6 (ECMA-424), as JSON."""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from typing import Any
from uuid import uuid4


def text(name: str, entries: Sequence[Mapping[str, Any]], made_with: Mapping[str, str]) -> str:
    """The bill: the bundle's engines as parts of it, the libraries that made them as tools, each with its licence."""
    tools = [_library(library, version) for library, version in made_with.items()]
    engines = [
        {
            "type": "machine-learning-model",
            "bom-ref": f"engine:{entry['name']}",
            "name": entry["name"],
            "description": f"{entry['engine']}: {entry['precision'] or 'as its source only'}",
        }
        for entry in entries
    ]
    found = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid4()}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "tools": {"components": tools},
            "component": {"type": "machine-learning-model", "bom-ref": "bundle", "name": name},
        },
        "components": engines,
        "dependencies": [{"ref": "bundle", "dependsOn": [engine["bom-ref"] for engine in engines]}],
    }
    return json.dumps(found, indent=1) + "\n"


def _library(name: str, version: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": "library", "bom-ref": f"pkg:pypi/{_canonical(name)}@{version}", "name": name, "version": version,
        "purl": f"pkg:pypi/{_canonical(name)}@{version}",
    }  # fmt: skip
    if licence := _licence(name):
        found["licenses"] = [{"license": {"name": licence}}]
    return found


def _licence(name: str) -> str:
    """As its package states it: an SPDX expression, a short text, or what it is classified as."""
    try:
        told: Any = metadata.metadata(name)  # a Message, of which the type tells a part only
    except metadata.PackageNotFoundError:
        return ""
    stated = told.get("License-Expression") or told.get("License") or ""
    if stated and "\n" not in stated and len(stated) < 100:
        return stated
    kinds = [one.rpartition(" :: ")[2] for one in told.get_all("Classifier") or () if one.startswith("License ::")]
    return ", ".join(kinds)


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
