"""Real processes whose hosts have different times."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from tests.service import Service

AHEAD = {"api": -40.0, "worker": 25.0}
"""Seconds; the lease of a node is 30 s."""

SITE = f"""
import sys, time
for role, ahead in {AHEAD!r}.items():
    if role in sys.orig_argv:
        time.time = lambda real=time.time, ahead=ahead: real() + ahead
"""


def test_a_fleet_lives_between_processes_with_wrong_clocks(
    serve: Callable[..., Service], tmp_path: Path
) -> None:
    """An API 40 s behind and a worker 25 s ahead of Redis agree that a node lives; the status names both."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE)
    path = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    service = serve(env={"PYTHONPATH": path})
    with httpx.Client(base_url=f"{service.base_url}/v1/clusters/c", timeout=20.0) as client:
        blocks = [{"layer": 0, "experts": 2, "expert_bytes": 10, "top_k": 1}]
        assert client.put("/models/m", json={"blocks": blocks}).is_success
        spec = {"instance_uid": "i", "devices": [{"device_id": "g", "memory_bytes": 20}]}
        assert client.put("/nodes/n", json=spec).json()["condition"] == "LIVE"
        holds = [{"model_id": "m", "layer": 0, "experts": [0, 1]}]
        beat = {"instance_uid": "i", "sequence_number": 1, "holds": holds}
        assert client.put("/nodes/n/status", json=beat).is_success
        status = _until(client, beat, lambda found: "worker" in _clocks(found) and "api" in _clocks(found))
        assert [(node["node_id"], node["live"], node["held_count"]) for node in status["nodes"]] == [
            ("n", True, 2)
        ]
        assert "about 40 s behind that of Redis" in _clocks(status)
        assert "about 25 s ahead of that of Redis" in _clocks(status)


def _clocks(status: dict[str, Any]) -> str:
    """Why the clocks do not agree; empty where they do."""
    found = next((it for it in status.get("conditions", ()) if it["type"] == "ClocksAgree"), None)
    return "" if found is None or found["status"] else str(found["reason"])


def _until(
    client: httpx.Client, beat: dict[str, Any], holds: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    deadline = time.monotonic() + 60.0
    while True:
        client.put("/nodes/n/status", json=beat)  # the same again: it renews the lease
        answer = client.get("/placement/status")
        if answer.is_success and holds(answer.json()):
            found: dict[str, Any] = answer.json()
            return found
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.2)
