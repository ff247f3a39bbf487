"""JSON files that are there whole or not at all, and short names for what configs hold."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def digest(config: Mapping[str, Any]) -> str:
    """A short hash of a config, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:8]


def to_json(value: Any) -> str:
    """``value`` as indented JSON."""
    return json.dumps(value, indent=2) + "\n"


def write_atomically(path: Path, text: str) -> None:
    """Write a file whole or not at all, even if power is lost meanwhile."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; empty where there is none that can be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
