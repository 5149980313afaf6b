"""A fleet of two nodes that speak HTTP alone: register, be told, obey, converge, and follow the traffic."""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

EXPERTS = 8
EXPERT_BYTES = 1000
SECONDS = 60.0


class ScriptedNode:
    """A node's side of the API, written out."""

    def __init__(self, client: httpx.Client, node_id: str, slots: int, peers: dict[str, float]) -> None:
        self.client = client
        self.node_id = node_id
        self.held: set[tuple[str, int, int]] = set()
        self.sequence = 0
        self.windows = 0
        self.assignment: dict[str, Any] | None = None
        self.moves_done = 0
        spec = {
            "instance_uid": f"{node_id}-1",
            "devices": [{"device_id": "gpu0", "memory_bytes": slots * EXPERT_BYTES}],
            "latency": {"peers_seconds": peers},
        }
        answer = client.put(f"nodes/{node_id}", json=spec)
        assert answer.status_code in (200, 201), answer.text
        self.beat(None)

    def beat(self, version: str | None) -> None:
        self.sequence += 1
        layers: dict[tuple[str, int], list[int]] = {}
        for model_id, layer, expert in sorted(self.held):
            layers.setdefault((model_id, layer), []).append(expert)
        body = {
            "instance_uid": f"{self.node_id}-1",
            "sequence_number": self.sequence,
            "state": "APPLIED",
            "assignment_version": version,
            "holds": [
                {"model_id": model_id, "layer": layer, "experts": experts}
                for (model_id, layer), experts in layers.items()
            ],
        }
        answer = self.client.put(f"nodes/{self.node_id}/status", json=body)
        assert answer.status_code == 200, answer.text

    def obey(self) -> None:
        """Fetch the assignment and say so, then do every released move and report it."""
        answer = self.client.get(f"nodes/{self.node_id}/assignment", headers={"Accept-Encoding": "identity"})
        if answer.status_code == 200:
            self.assignment = answer.json()
            self.beat(answer.headers["ETag"].strip('"'))
        answer = self.client.get(f"nodes/{self.node_id}/moves", headers={"Accept-Encoding": "identity"})
        if answer.status_code != 200:
            return
        orders = answer.json()
        for move in orders["moves"]:
            expert = (move["model_id"], move["layer"], move["expert"])
            (self.held.add if move["kind"] == "COPY" else self.held.discard)(expert)
            self.moves_done += 1
            report = {
                "instance_uid": f"{self.node_id}-1",
                "generation": orders["metadata"]["generation"],
                "attempt": move["attempt"],
                "state": "SUCCEEDED",
                "bytes_done": move["bytes"],
            }
            where = f"migration_plans/{move['plan_id']}/moves/{move['move_id']}/report"
            answer = self.client.put(where, json=report)
            assert answer.status_code == 200, answer.text

    def post_window(self, experts: list[int]) -> None:
        """Ten seconds in which every token of layer 0 called these two experts."""
        self.windows += 1
        end = datetime.now(UTC)
        counts = [100 if expert in experts else 0 for expert in range(EXPERTS)]
        body = {
            "model_id": "tiny",
            "instance_uid": f"{self.node_id}-1",
            "sequence_number": self.windows,
            "window": {
                "start_at": (end - timedelta(seconds=10)).isoformat(),
                "end_at": end.isoformat(),
            },
            "tokens": 100,
            "layers": [{"layer": 0, "counts": counts}],
            "routes": [{"layer": 0, "experts": [experts], "weights": None}],
        }
        answer = self.client.post(f"nodes/{self.node_id}/telemetry", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["accepted_count"] == 1, answer.text


def until(condition: Callable[[], bool], nodes: list[ScriptedNode], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        for node in nodes:
            node.obey()
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError(f"{what} did not come within {SECONDS:g} s")


def converge_and_follow(base_url: str, cluster_id: str) -> None:
    """The fleet reaches its first placement; once telemetry says which experts each node's tokens call, a
    solve moves those there, and the fleet converges again."""
    with httpx.Client(base_url=f"{base_url}/v1/clusters/{cluster_id}/", timeout=20) as client:

        def status() -> dict[str, Any]:
            answer = client.get("placement/status")
            return dict(answer.json()) if answer.status_code == 200 else {"conditions": []}

        def holds(condition: str, of_generation: int = 1) -> bool:
            """Told of that generation or a later one: what is told of an earlier one may still hold."""
            told = status()
            return (told.get("generation") or 0) >= of_generation and any(
                c["type"] == condition and c["status"] for c in told["conditions"]
            )

        settings = {"origin": {"latency_seconds": 0.1}, "optimization_interval_seconds": 3600}
        answer = httpx.put(f"{base_url}/v1/clusters/{cluster_id}", json=settings)
        assert answer.status_code in (200, 201), answer.text
        block = {"layer": 0, "experts": EXPERTS, "expert_bytes": EXPERT_BYTES, "top_k": 2}
        answer = client.put("models/tiny", json={"blocks": [block]})
        assert answer.status_code in (200, 201), answer.text
        nodes = [
            ScriptedNode(client, "a", 5, {"b": 0.02}),
            ScriptedNode(client, "b", 4, {"a": 0.02}),
        ]
        until(lambda: holds("Converged") and holds("Available"), nodes, "convergence")
        assert {e for _, _, e in nodes[0].held | nodes[1].held} == set(range(EXPERTS))
        assert sum(node.moves_done for node in nodes) >= EXPERTS

        # Each node's tokens call two experts that the other one holds alone, or that both might hold.
        wanted = {
            "a": sorted(e for _, _, e in nodes[1].held - nodes[0].held)[:2],
            "b": sorted(e for _, _, e in nodes[0].held - nodes[1].held)[:2],
        }
        for node in nodes:
            node.post_window(wanted[node.node_id])
        until(lambda: holds("TelemetryFresh"), nodes, "folding")
        answer = client.post(
            "optimizations", json={"ignore_migration_cost": True}, headers={"Prefer": "wait=20"}
        )
        assert answer.status_code in (200, 202), answer.text
        until(lambda: client.get("placement").json()["metadata"]["generation"] >= 2, nodes, "generation 2")
        generation = client.get("placement").json()["metadata"]["generation"]
        until(lambda: holds("Converged", generation), nodes, "convergence again")
        for node in nodes:
            held = {expert for _, _, expert in node.held}
            assert set(wanted[node.node_id]) <= held, f"{node.node_id} holds {held}"
            assert len(held) * EXPERT_BYTES <= {"a": 5000, "b": 4000}[node.node_id]
        evidence = client.get("placement").json()["evidence"]
        assert evidence["reason"] == "OPERATOR"
        assert evidence["mean_latency_seconds"] < 1e-9, "every call is a local one"
        plans = client.get("migration_plans").json()["migration_plans"]
        assert {plan["state"] for plan in plans} == {"SUCCEEDED"}, json.dumps(plans, indent=1)
        answer = client.get("analysis")
        assert answer.status_code == 200
