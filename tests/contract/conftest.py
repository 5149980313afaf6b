"""The service over real HTTP, on a real server, with a fleet in every state that a request may meet."""

import asyncio
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx
import numpy as np
import pytest
import uvicorn

from app.analysis.packed import PackedLayer
from app.analysis.schemas import Analysis, AnalysisOverview
from app.clusters.store import require_cluster
from app.config import Settings
from app.main import create_app
from app.placements.examples import ASSIGNMENT
from app.placements.schemas import (
    Assignment,
    Condition,
    ConditionType,
    NodeProgress,
    PlacementStatus,
)
from app.schema import Schema
from app.storage.client import open_client
from app.storage.documents import encode_document, queue_document
from app.storage.embedded import EmbeddedServer
from app.storage.keys import ClusterKeys
from app.storage.workers import beat

CLUSTER = "alpha"
MODEL = "tiny"
NODES = ("node-a", "node-b")
INSTANCE = "instance-1"


@dataclass(frozen=True)
class Fleet:
    """Where the service is, and what there is to ask it about."""

    url: str
    optimization_id: str
    plan_id: str


@pytest.fixture(scope="session")
def fleet(redis_server: EmbeddedServer) -> Iterator[Fleet]:
    """A served cluster with a model, two nodes, two placements, a queued optimization and a queued plan."""

    async def prepare() -> None:
        async with open_client(redis_server.url) as client:
            await client.flushall()
            await beat(client, "worker", 3600)

    asyncio.run(prepare())
    # Tokens are issued in passing, and are not to be asked for after that.
    settings = Settings(redis_url=redis_server.url, node_lease_seconds=3600, allow_unauthenticated=True)
    server = uvicorn.Server(uvicorn.Config(create_app(settings), port=0, log_config=None, lifespan="on"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the service did not start"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        seeded = seed(f"http://127.0.0.1:{port}")
        asyncio.run(observe(redis_server.url))
        yield seeded
    finally:
        server.should_exit = True
        thread.join(10)


def seed(url: str) -> Fleet:
    base = f"{url}/v1/clusters/{CLUSTER}"
    with httpx.Client(timeout=30) as client:

        def ask(method: str, path: str, body: object, **headers: str) -> httpx.Response:
            fields = {name.replace("_", "-"): value for name, value in headers.items()}
            response = client.request(method, base + path, json=body, headers=fields)
            assert response.is_success, response.text
            return response

        ask("PUT", "", {"origin": {}, "min_replicas": 0})
        ask("PUT", f"/models/{MODEL}", {"preset": "tiny-moe"})
        for node_id in NODES:
            device = {"device_id": "gpu0", "memory_bytes": 100_000_000}
            ask("PUT", f"/nodes/{node_id}", {"instance_uid": INSTANCE, "devices": [device]})
        held = [{"model_id": MODEL, "layer": 0, "experts": [0, 1]}]
        empty = {"holds": [{"node_id": NODES[0], "holds": held}]}
        first = ask("PUT", "/placement", empty, if_none_match="*")
        ask("PUT", "/placement", {"holds": []}, if_match=first.headers["etag"])
        optimization = ask("POST", "/optimizations", {"validate_only": True}).json()
        plan = ask("POST", "/migration_plans", {"from_generation": 1, "to_generation": 2}).json()
    return Fleet(url, optimization["optimization_id"], plan["plan_id"])


async def observe(redis_url: str) -> None:
    """Write what the worker would: assignments, the placement's status, an analysis."""
    keys = ClusterKeys(CLUSTER)
    async with open_client(redis_url) as client:
        cluster = await require_cluster(client, CLUSTER)
        now = datetime.now(UTC)
        status = PlacementStatus(
            cluster_uid=cluster.uid,
            generation=2,
            paused=False,
            conditions=[
                Condition(type=kind, status=False, reason="nothing is known yet", since=now)
                for kind in ConditionType
            ],
            nodes=[
                NodeProgress(
                    node_id=node_id,
                    live=True,
                    state=None,
                    generation=None,
                    routes_current=False,
                    desired_count=0,
                    held_count=0,
                    missing_count=0,
                    excess_count=0,
                    obsolete_count=0,
                )
                for node_id in NODES
            ],
            active_plan=None,
        )
        analysis = Analysis(
            cluster_uid=cluster.uid,
            generation=2,
            created_at=now,
            telemetry_until=None,
            objective=0.0,
            desired_objective=0.0,
            mean_latency_seconds=None,
            local_hit_ratio=None,
            balancedness=None,
            nodes=[],
        )
        overview = AnalysisOverview(**{**dict(analysis), "layers": []})
        layer = PackedLayer.of(
            cluster_uid=cluster.uid,
            generation=2,
            created_at=now,
            telemetry_until=None,
            model_id=MODEL,
            layer=0,
            node_ids=list(NODES),
            live=[True, False],
            calls=np.array([[1.0, 3.0], [0.0, 0.0]]),
            held=np.array([[1, 0], [0, 0]], np.uint8),
            desired=np.array([[1, 0], [0, 1]], np.uint8),
        )
        async with client.pipeline(transaction=True) as pipe:
            documents: list[tuple[str, Schema]] = [
                (keys.placement_status, status),
                (keys.analysis, analysis),
                (keys.analysis_overview, overview),
            ]
            pipe.hset(keys.analysis_layers, layer.field, layer.encoded())
            for node_id in NODES:
                assignment = Assignment.model_validate({**ASSIGNMENT, "node_id": node_id})
                documents.append((keys.assignment(node_id), assignment))
            for key, document in documents:
                body = document.model_dump_json().encode()
                queue_document(pipe, key, encode_document(body, uid=cluster.uid, generation=2))
            await pipe.execute()
