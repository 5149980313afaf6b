"""A small cluster in a real server, an application with only the telemetry route, and windows to post."""

import base64
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Any

import httpx
import msgspec
import numpy as np
from fastapi import FastAPI
from redis.asyncio import Redis

from app.clusters.schemas import ClusterRecord, ClusterSettings
from app.config import Settings
from app.http import problem
from app.models.schemas import Block, ModelRecord
from app.nodes.schemas import Device, NodeRecord, NodeSpec
from app.storage.keys import ClusterKeys
from app.telemetry import endpoints
from app.telemetry.intake import Intake
from app.telemetry.packed import PackedWindow

KEYS = ClusterKeys("edge")
NODE = "node-a"
INSTANCE = "instance-1"
PATH = "/v1/clusters/edge/nodes/node-a/telemetry"
NOW = datetime(2026, 11, 22, tzinfo=UTC)

LAYERS = {1: 8, 2: 8, 5: 4}
"""layer -> experts of the model `moe`; top_k is 2."""


def model(model_id: str = "moe", layers: Mapping[int, int] = LAYERS, digest: str = "d1") -> ModelRecord:
    return ModelRecord(
        model_id=model_id,
        digest=digest,
        created_at=NOW,
        updated_at=NOW,
        blocks=[
            Block(layer=layer, experts=experts, expert_bytes=1000, top_k=2)
            for layer, experts in layers.items()
        ],
        source="blocks",
        origin_url=None,
    )


def node(
    node_id: str = NODE, *, instance_uid: str = INSTANCE, draining: bool = False, **spec: Any
) -> NodeRecord:
    spec = {"devices": [Device(device_id="gpu0", memory_bytes=10_000)], **spec}
    return NodeRecord(
        node_id=node_id,
        uid="u-" + node_id,
        created_at=NOW,
        updated_at=NOW,
        draining=draining,
        spec=NodeSpec(instance_uid=instance_uid, **spec),
    )


async def register(
    redis: Redis, models: Sequence[ModelRecord] = (model(),), nodes: Sequence[NodeRecord] = (node(),)
) -> None:
    """What registering through the API leaves in Redis, as far as telemetry reads it."""
    record = ClusterRecord(
        cluster_id=KEYS.cluster_id, uid="uid", created_at=NOW, updated_at=NOW, settings=ClusterSettings()
    )
    async with redis.pipeline(transaction=True) as pipe:
        pipe.set(KEYS.cluster, record.model_dump_json())
        pipe.delete(KEYS.models, KEYS.nodes, KEYS.telemetry_instances)
        for it in models:
            pipe.hset(KEYS.models, it.model_id, it.model_dump_json())
        for that in nodes:
            pipe.hset(KEYS.nodes, that.node_id, that.model_dump_json())
            pipe.hset(KEYS.telemetry_instances, that.node_id, that.spec.instance_uid)
        pipe.incr(KEYS.revision)
        await pipe.execute()


@contextlib.asynccontextmanager
async def client_of(redis: Redis, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application with the telemetry route; anything it raises fails the test."""
    app = FastAPI()
    problem.install(app)
    app.router.routes.extend(endpoints.routes)
    app.state.settings = Settings(**settings)
    app.state.redis = redis
    app.state.intake = intake = Intake(redis, app.state.settings)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client
    await intake.stop()


def window(sequence_number: int = 1, **changes: Any) -> dict[str, Any]:
    """A valid window of `moe` in JSON, with every form that a layer may have."""
    end = datetime.now(UTC).replace(microsecond=0)
    return {
        "model_id": "moe",
        "instance_uid": INSTANCE,
        "sequence_number": sequence_number,
        "window": {
            "start_at": (end - timedelta(seconds=10)).isoformat(),
            "end_at": end.isoformat(),
        },
        "tokens": 18,
        "layers": [
            {"layer": 1, "counts": [1, 2, 3, 4, 5, 6, 7, 8]},
            {"layer": 2, "expert_ids": [7, 0], "counts": [30, 6]},
            {"layer": 5, "counts": packed_base64([9, 9, 9, 9], "<u4")},
        ],
        "routes": [
            {"layer": 1, "experts": [[0, 1], [2, 7], [3]], "weights": [2, 1, 0.5]},
            {"layer": 5, "experts": packed_base64([0, 1, 2, 3], "<u2"), "weights": None},
        ],
        "step_time_seconds": {"p50": 0.02, "p99": 0.03},
        **changes,
    }


COUNTS = {1: [1, 2, 3, 4, 5, 6, 7, 8], 2: [6, 0, 0, 0, 0, 0, 0, 30], 5: [9, 9, 9, 9]}
"""What `window` counts, dense."""

ACTIVATIONS = sum(map(sum, COUNTS.values()))


def packed(numbers: Sequence[float], dtype: str) -> bytes:
    return np.asarray(numbers, dtype).tobytes()


def packed_base64(numbers: Sequence[float], dtype: str) -> str:
    return base64.b64encode(packed(numbers, dtype)).decode()


def msgpack_window(sequence_number: int = 1, **changes: Any) -> dict[str, Any]:
    """The same as `window`, as agents send it."""
    return {
        **window(sequence_number),
        "layers": [{"layer": layer, "counts": packed(counts, "<u4")} for layer, counts in COUNTS.items()],
        "routes": [
            {
                "layer": 1,
                "experts": packed([0, 1, 2, 7, 3, 65535], "<u2"),
                "weights": packed([2, 1, 0.5], "<f4"),
            },
            {"layer": 5, "experts": packed([0, 1, 2, 3], "<u2"), "k": 2},
        ],
        **changes,
    }


def encoded(value: Any) -> bytes:
    return msgspec.msgpack.encode(value)


def dense(kept: PackedWindow) -> dict[int, list[int]]:
    """Counts by layer, of a window of `moe`."""
    shape = {block.layer: block.experts for block in model().blocks}
    layers = list(shape) if kept.layers is None else kept.layers
    of_all = np.zeros(sum(shape.values()), np.int64)
    at = dict(zip(shape, accumulate(shape.values(), initial=0), strict=False))
    experts = kept.counted_experts()
    if experts is None:
        experts = np.concatenate([np.zeros(0, np.int64)] + [np.arange(shape[it]) + at[it] for it in layers])
    of_all[experts] = kept.counted()
    return {layer: of_all[at[layer] : at[layer] + shape[layer]].tolist() for layer in layers}
