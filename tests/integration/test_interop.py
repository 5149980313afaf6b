"""Files of other engines in and out of a running service, by the commands that users run."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from app.cli import command_line
from tests.service import Service

EXPERTS, K = 8, 2
LAYERS = (1, 3)


def moeplace(*words: object) -> tuple[int, Any, str]:
    arguments = [str(word) for word in words]
    ended = CliRunner().invoke(command_line(arguments), arguments)
    return ended.exit_code, json.loads(ended.stdout) if ended.stdout else None, ended.stderr


def test_telemetry_in_and_placement_out(serve: Callable[..., Service], tmp_path: Path) -> None:
    """Recordings of two nodes become their telemetry, at the rates they were recorded at; the placement
    solved from it leaves the service as an engine's file that holds what the service says."""
    service = serve(env={"MOEPLACE_WORKER_TICK_SECONDS": "0.1", "MOEPLACE_NODE_LEASE_SECONDS": "600"})
    cluster = f"{service.base_url}/v1/clusters/edge"
    with httpx.Client(base_url=f"{cluster}/", timeout=20) as client:
        settings = {"optimization_interval_seconds": 3600}
        assert httpx.put(cluster, json=settings, timeout=20).status_code in (200, 201)
        blocks = [{"layer": layer, "experts": EXPERTS, "expert_bytes": 10, "top_k": K} for layer in LAYERS]
        assert client.put("models/moe", json={"blocks": blocks}).status_code in (200, 201)
        for node, other in (("east", "west"), ("west", "east")):
            spec = {
                "instance_uid": f"{node}-1",
                "devices": [{"device_id": "gpu0", "memory_bytes": 100}],
                "latency": {"peers_seconds": {other: 0.01}},
            }
            assert client.put(f"nodes/{node}", json=spec).status_code in (200, 201)

        random = np.random.default_rng(0)
        for node, first in (("east", 0), ("west", 3)):
            chosen = np.argsort(random.random((300, 2, 5)), axis=2)[:, :, :K] + first
            np.save(tmp_path / f"{node}.npy", chosen.astype(np.int16))
        post = ("--model", "moe", "--seconds", 60)
        status, said, errors = moeplace(
            "import", "vllm-routed-experts", tmp_path / "east.npy", "--to", f"{cluster}/nodes/east", *post
        )
        assert status == 0, errors
        assert said["nodes"]["east"]["accepted"] is True
        assert (said["nodes"]["east"]["tokens"], said["nodes"]["east"]["layers"]) == (300, 2)
        status, _, errors = moeplace(
            "import", "vllm-routed-experts", f"west={tmp_path}/west.npy", "--to", cluster, *post
        )
        assert status == 0, errors

        def analysis() -> dict[str, Any]:
            answer = client.get("analysis")
            return dict(answer.json()) if answer.status_code == 200 else {"nodes": []}

        def counted() -> bool:
            rates = [layer["activations_per_second"] for n in analysis()["nodes"] for layer in n["layers"]]
            return len(rates) == 2 * len(LAYERS) and min(rates) > 0

        _until(counted, "statistics of both nodes")
        rates = [layer["activations_per_second"] for n in analysis()["nodes"] for layer in n["layers"]]
        assert rates == pytest.approx([300 * K / 60] * len(rates), rel=0.05)
        answer = client.post("optimizations", json={"time_limit_seconds": 2}, headers={"Prefer": "wait=15"})
        assert answer.status_code in (200, 202), answer.text
        _until(lambda: _solved_from_telemetry(client), "a placement from telemetry")

        status, said, errors = moeplace(
            "export", "omni", "--from", cluster, "--out", tmp_path / "pattern.npy"
        )
        assert status == 0, errors
        assert said["moe_layers"] == "1,3"
        placement = client.get("placement").json()
        pattern = np.load(tmp_path / "pattern.npy")
        for of_node in placement["spec"]["holds"]:
            rank = said["nodes"].index(of_node["node_id"])
            for held in of_node["holds"]:
                at = LAYERS.index(held["layer"])
                assert np.flatnonzero(pattern[rank, at]).tolist() == sorted(held["experts"])
        assert pattern.sum() == sum(len(h["experts"]) for n in placement["spec"]["holds"] for h in n["holds"])

        # the same generation by its number, in a format that numbers layers as the model does
        alone = ("--from", cluster, "--generation", placement["metadata"]["generation"])
        out = tmp_path / "balancer.yaml"
        status, _, errors = moeplace("export", "tensorrt-llm", *alone, "--out", out)
        assert status == 0, errors
        rows = yaml.safe_load(out.read_text())["initial_global_assignments"]
        assert list(rows) == list(LAYERS)
        assert sum(len(row) for row in rows.values()) == pattern.sum()

        for words, exit_status, expected in (
            (("--to", f"{cluster}/nodes/north", *post), 1, "404: "),
            (("--to", f"{cluster}/nodes/east", "--model", "other", "--seconds", 60), 1, "404: "),
            (("--to", f"{cluster}/nodes/east", "--model", "moe", "--seconds", 4000), 2, "--seconds: is 4000"),
            (("--to", f"{cluster}/nodes/east", "--model", "moe"), 2, "--seconds: absent, expected with --to"),
        ):
            status, _, errors = moeplace("import", "vllm-routed-experts", tmp_path / "east.npy", *words)
            assert (status, expected in errors, len(errors.splitlines())) == (exit_status, True, 1), errors


def _solved_from_telemetry(client: httpx.Client) -> bool:
    answer = client.get("placement")
    return answer.status_code == 200 and answer.json()["evidence"]["telemetry_until"] is not None


def _until(happened: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"{what} did not come within {seconds:g} s"
        time.sleep(0.1)
