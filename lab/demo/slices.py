"""What a node process tells the demo: one line of JSON for each slice of time."""

from __future__ import annotations

import msgspec


class Slice(msgspec.Struct, frozen=True):
    """The tokens of `begin`..`end` (seconds since the epoch) at one node, and how they fared.

    `latency_seconds` is the sum over the tokens of their expert latency over all layers; `local` of
    `activations` were served by the node itself.
    """

    node_id: str
    begin: float
    end: float
    domain: str
    requests: list[int]
    tokens: int
    latency_seconds: float
    local: int
    activations: int
    generation: int | None
    held: int
    used_bytes: int
    windows_dropped: int
    retries: int


class Instruction(msgspec.Struct, frozen=True):
    """What the demo tells a node process: go on with this domain."""

    domain: str


class NodeStart(msgspec.Struct, frozen=True):
    """The first line a node process reads."""

    base_url: str
    node_id: str
    domain: str
    seed: int
    slice_seconds: float
    tokens_per_second: int
