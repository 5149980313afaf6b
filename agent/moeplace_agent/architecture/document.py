"""config.json as a document: read as Python's json, which wrote it, reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from moeplace_agent.architecture.faults import ConfigFault

MAX_BYTES = 64 << 20
"""Lists of unquantized layers have made a config.json of three megabytes."""


def read_document(path: Path) -> dict[str, Any]:
    """The object in the file. Raises `ConfigFault` where there is none, and OSError."""
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ConfigFault("", f"has more than {MAX_BYTES} bytes", "TOO_LARGE")
    return decode_document(content)


def decode_document(content: bytes) -> dict[str, Any]:
    """The object that `content` is in JSON. A byte order mark, `Infinity` and `NaN` are read, too: Mamba
    hybrids have `time_step_limit: [0.0, Infinity]`. Raises `ConfigFault`."""
    try:
        value = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        words = str(error) or type(error).__name__
        raise ConfigFault("", f"is not JSON: {words}", "MALFORMED") from None
    if not isinstance(value, dict):
        raise ConfigFault("", f"is {type(value).__name__} in JSON, expected an object", "EXPECTED_OBJECT")
    return value
