"""One layer's activations as the worker leaves them in Redis: 2 bytes a cell before compression.

Shares are kept as float16: 11 significant bits, which is finer than any sample of traffic, and exact zeros.
"""

from datetime import UTC, datetime
from typing import Self, cast

import msgspec
import numpy as np
import numpy.typing as npt
import zstandard

from app.analysis.schemas import LayerActivations, NodeActivations
from solvers.problem import Float64, UInt8

SIGNIFICANT_DIGITS = 4
_MICROSECONDS = 1_000_000


class PackedLayer(msgspec.Struct, array_like=True, frozen=True):
    """N nodes, E experts of the layer: `rates` float64[N]; `shares` float16[N, E]; `held` and `desired`
    bits [N, E], row after row."""

    cluster_uid: str
    generation: int | None
    created_us: int
    telemetry_until_us: int | None
    model_id: str
    layer: int
    experts: int
    node_ids: list[str]
    live: list[bool]
    rates: bytes
    shares: bytes
    held: bytes
    desired: bytes

    @classmethod
    def of(
        cls,
        *,
        cluster_uid: str,
        generation: int | None,
        created_at: datetime,
        telemetry_until: datetime | None,
        model_id: str,
        layer: int,
        node_ids: list[str],
        live: list[bool],
        calls: Float64,
        held: UInt8,
        desired: UInt8,
    ) -> Self:
        """`calls` float64[N, E] activations per second; `held` and `desired` uint8[N, E]."""
        rates = calls.sum(axis=1)
        shares = np.divide(calls, rates[:, None], out=np.zeros_like(calls), where=rates[:, None] > 0)
        return cls(
            cluster_uid,
            generation,
            _microseconds(created_at),
            None if telemetry_until is None else _microseconds(telemetry_until),
            model_id,
            layer,
            calls.shape[1],
            node_ids,
            live,
            rates.astype("<f8").tobytes(),
            shares.astype("<f2").tobytes(),
            np.packbits(held).tobytes(),
            np.packbits(desired).tobytes(),
        )

    @property
    def field(self) -> str:
        return layer_field(self.model_id, self.layer)

    def encoded(self) -> bytes:
        return zstandard.ZstdCompressor(level=1).compress(msgspec.msgpack.encode(self))

    @classmethod
    def decoded(cls, stored: bytes) -> Self:
        return msgspec.msgpack.decode(zstandard.ZstdDecompressor().decompress(stored), type=cls)

    def activations(self) -> LayerActivations:
        """As the API tells it; O(N E): call it off the event loop."""
        shape = len(self.node_ids), self.experts
        rates = np.frombuffer(self.rates, "<f8")
        shares = _rounded(np.frombuffer(self.shares, "<f2").reshape(shape))
        held, desired = _bits(self.held, shape), _bits(self.desired, shape)
        return LayerActivations(
            cluster_uid=self.cluster_uid,
            generation=self.generation,
            created_at=_moment(self.created_us),
            telemetry_until=None if self.telemetry_until_us is None else _moment(self.telemetry_until_us),
            model_id=self.model_id,
            layer=self.layer,
            experts=self.experts,
            nodes=[
                NodeActivations(
                    node_id=node_id,
                    live=self.live[row],
                    activations_per_second=float(rates[row]),
                    shares=shares[row] if rates[row] > 0 else [],
                    held=np.flatnonzero(held[row]).tolist(),
                    desired=np.flatnonzero(desired[row]).tolist(),
                )
                for row, node_id in enumerate(self.node_ids)
            ],
        )


def layer_field(model_id: str, layer: int) -> str:
    """Where the layer is in the hash `ClusterKeys.analysis_layers`."""
    return f"{model_id}/{layer}"


def _rounded(shares: "npt.NDArray[np.float16]") -> list[list[float]]:
    """More digits than float16 has would be noise, and most of the answer's bytes."""
    exact = shares.astype(np.float64)
    digits = SIGNIFICANT_DIGITS - 1 - np.floor(np.log10(exact, out=np.zeros_like(exact), where=exact > 0))
    # Both are whole numbers, so that the quotient is the double nearest to the decimal, and prints as such.
    scale = 10.0**digits
    return cast("list[list[float]]", (np.rint(exact * scale) / scale).tolist())


def _bits(packed: bytes, shape: tuple[int, int]) -> UInt8:
    count = shape[0] * shape[1]
    return np.unpackbits(np.frombuffer(packed, np.uint8), count=count).reshape(shape)


def _microseconds(moment: datetime) -> int:
    return round(moment.timestamp() * _MICROSECONDS)


def _moment(microseconds: int) -> datetime:
    return datetime.fromtimestamp(microseconds / _MICROSECONDS, UTC)
