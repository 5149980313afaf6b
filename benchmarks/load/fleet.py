"""The fleet that the load plays: a model of 58 x 256, its nodes, and the windows they post."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import msgspec
import numpy as np
import numpy.typing as npt

LAYERS = 58
EXPERTS = 256
TOP_K = 8
FIRST_LAYER = 3
TOKENS = 10_000
"""Tokens of a window: 1,000 a second for 10 s."""

CLUSTER = "load"
MODEL = "v3"
INSTANCE = "i-1"
BASE = f"/v1/clusters/{CLUSTER}"

SEQUENCE = 1_000_000_000
"""Sequence numbers begin here, so that all of them have the same length in JSON and in MessagePack."""


def node_name(index: int) -> str:
    return f"n{index:04d}"


def counts(seed: int = 0) -> npt.NDArray[np.uint32]:
    """uint32[58, 256]: log-normal popularity, as routers trained for balance still have."""
    popularity = np.random.default_rng(seed).lognormal(0.0, 1.0, (LAYERS, EXPERTS))
    popularity /= popularity.sum(axis=1, keepdims=True)
    return (popularity * TOP_K * TOKENS).astype(np.uint32)


def _envelope() -> dict[str, Any]:
    end = datetime.now(UTC)
    return {
        "model_id": MODEL,
        "instance_uid": INSTANCE,
        "sequence_number": SEQUENCE,
        "window": {"start_at": (end - timedelta(seconds=10)).isoformat(), "end_at": end.isoformat()},
        "tokens": TOKENS,
    }


def routes(sampled: int, seed: int = 0) -> list[dict[str, Any]]:
    """`sampled` routes of each layer, packed and weighted, as agents send them."""
    random = np.random.default_rng(seed)
    ids = np.sort(np.argsort(random.random((LAYERS, sampled, EXPERTS)), axis=2)[:, :, :TOP_K], axis=2)
    weights = random.exponential(1.0, (LAYERS, sampled)).astype("<f4") + np.float32(1)
    return [
        {
            "layer": FIRST_LAYER + layer,
            "k": TOP_K,
            "experts": ids[layer].astype("<u2").tobytes(),
            "weights": weights[layer].tobytes(),
        }
        for layer in range(LAYERS)
    ]


def msgpack_window(sampled: int = 0, seed: int = 0) -> bytes:
    """About 59 KiB, as agents send it."""
    layers = [
        {"layer": FIRST_LAYER + index, "counts": row.astype("<u4").tobytes()}
        for index, row in enumerate(counts(seed))
    ]
    sample = {"routes": routes(sampled, seed)} if sampled else {}
    return msgspec.msgpack.encode({**_envelope(), "layers": layers, **sample})


def json_window(seed: int = 0, *, packed: bool = False) -> bytes:
    """The same with lists of numbers, or with numbers packed in base64."""
    layers = [
        {
            "layer": FIRST_LAYER + index,
            "counts": base64.b64encode(row.astype("<u4").tobytes()).decode() if packed else row.tolist(),
        }
        for index, row in enumerate(counts(seed))
    ]
    return json.dumps({**_envelope(), "layers": layers}, separators=(",", ":")).encode()


async def register(base_url: str, nodes: int) -> None:
    """The model and its nodes, through the API; nothing is recomputed by itself."""
    async with httpx.AsyncClient(base_url=base_url, timeout=30) as client:
        await _put(client, BASE, {"automatic": False})
        blocks = [
            {"layer": FIRST_LAYER + index, "experts": EXPERTS, "expert_bytes": 1000, "top_k": TOP_K}
            for index in range(LAYERS)
        ]
        await _put(client, f"{BASE}/models/{MODEL}", {"blocks": blocks})
        for index in range(nodes):
            spec = {
                "instance_uid": INSTANCE,
                "devices": [{"device_id": "gpu0", "memory_bytes": LAYERS * EXPERTS * 1000}],
            }
            await _put(client, f"{BASE}/nodes/{node_name(index)}", spec)


async def _put(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> None:
    answer = await client.put(path, json=body)
    answer.raise_for_status()
