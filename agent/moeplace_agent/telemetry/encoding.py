"""A window in the bytes of the service's contract, docs/telemetry.md."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import zstandard

from moeplace_agent.telemetry.windows import Window


def encode_window(window: Window, instance_uid: str, sequence_number: int) -> bytes:
    """The window in MessagePack, numbered within its node's instance; arrays packed little-endian: uint32
    counts, uint16 ids, float32 weights."""
    return msgspec.msgpack.encode(
        {
            "model_id": window.model_id,
            "instance_uid": instance_uid,
            "sequence_number": sequence_number,
            "window": {"start_at": _rfc3339(window.start_at), "end_at": _rfc3339(window.end_at)},
            "tokens": window.tokens,
            "layers": [
                {"layer": layer.layer, "counts": layer.counts.astype("<u4").tobytes()}
                for layer in window.layers
            ],
            "routes": [
                {
                    "layer": layer.layer,
                    "k": layer.routes.shape[1],
                    "experts": layer.routes.astype("<u2").tobytes(),
                    "weights": layer.weights.astype("<f4").tobytes(),
                }
                for layer in window.layers
                if layer.routes.size
            ],
        }
    )


def compress(body: bytes) -> bytes:
    """Zstandard, level 1: counts compress to about half at little cost to the node."""
    return zstandard.ZstdCompressor(level=1).compress(body)


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
