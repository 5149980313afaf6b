"""Telemetry as clients send it, and what they are answered."""

from datetime import datetime
from typing import Annotated

import msgspec
from pydantic import Field

from app.schema import Schema

MAX_PARTS = 1024
"""Layers and routes of one window; a model has at most 256 blocks."""

Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class Span(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    start_at: Moment
    end_at: Moment


class LayerCounts(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """Lists, or the same numbers packed little-endian: uint32 counts, uint16 ids."""

    layer: int
    counts: list[int] | bytes
    expert_ids: list[int] | bytes | None = None


class LayerRoutes(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Lists, or packed: uint16 ids, k a route (null: the layer's top_k), 65535 pads; float32 weights."""

    layer: int
    experts: list[list[int]] | bytes
    k: int | None = None
    weights: list[float] | bytes | None = None


class PackedLayerCounts(LayerCounts, forbid_unknown_fields=True, frozen=True, gc=False):
    counts: bytes
    expert_ids: bytes | None = None


class PackedLayerRoutes(LayerRoutes, forbid_unknown_fields=True, frozen=True):
    experts: bytes
    weights: bytes | None = None


class Window(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """step_time_seconds: what agents of earlier versions may send, whatever it holds; nothing uses it."""

    model_id: str
    instance_uid: str
    sequence_number: int
    window: Span
    tokens: int
    layers: list[LayerCounts]
    routes: list[LayerRoutes] = []
    step_time_seconds: msgspec.Raw = msgspec.Raw(b"")


class PackedWindow(Window, forbid_unknown_fields=True, frozen=True):
    """All numbers packed, as large windows must be: their cost does not depend on what they hold."""

    layers: list[PackedLayerCounts]  # type: ignore[assignment]  # read only
    routes: list[PackedLayerRoutes] = []  # type: ignore[assignment]  # read only


class ListedLayerCounts(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """Counts of all experts, left as they came: to be packed for all layers together."""

    layer: int
    counts: msgspec.Raw
    expert_ids: None = None


class ListedWindow(Window, forbid_unknown_fields=True, frozen=True):
    """What JSON usually is."""

    layers: list[ListedLayerCounts]  # type: ignore[assignment]  # read only


class LargeListedWindow(ListedWindow, forbid_unknown_fields=True, frozen=True):
    routes: list[PackedLayerRoutes] = []  # type: ignore[assignment]  # read only


class RowsWindow(Window, forbid_unknown_fields=True, frozen=True):
    """What MessagePack usually is: layers left as they came, to be taken all together."""

    layers: msgspec.Raw  # type: ignore[assignment]  # read only


class LargeRowsWindow(RowsWindow, forbid_unknown_fields=True, frozen=True):
    routes: list[PackedLayerRoutes] = []  # type: ignore[assignment]  # read only


class WindowParts(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A window whose parts are left as they came, to be decoded one by one."""

    model_id: str
    instance_uid: str
    sequence_number: int
    window: Span
    tokens: int
    layers: list[msgspec.Raw] | None = None
    routes: list[msgspec.Raw] = []
    step_time_seconds: msgspec.Raw = msgspec.Raw(b"")


class RejectedPart(Schema):
    pointer: Annotated[str, Field(description="JSON pointer; in a stream it begins with the window's index.")]
    detail: str
    code: str


class PartialSuccess(Schema):
    rejected_count: Annotated[int, Field(description="Windows, layers and routes that were left out.")]
    errors: Annotated[list[RejectedPart], Field(max_length=50, description="The first of them.")]


class TelemetryAnswer(Schema):
    """Do not send an accepted window again."""

    accepted_count: Annotated[int, Field(ge=0, description="Windows that were added to Redis.")]
    duplicate: Annotated[bool, Field(description="A window was already known. It is counted once.")]
    partial_success: Annotated[PartialSuccess | None, Field(description="Null: everything was accepted.")]
