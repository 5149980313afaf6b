"""What the processes of the fleet and the command that runs them tell each other, in lines of JSON."""

from __future__ import annotations

import msgspec

from lab.fleet.links import LinkSpec
from lab.fleet.traffic import Request


class OriginStart(msgspec.Struct, frozen=True):
    """The first line the origin reads. `links`: its way to each node."""

    checkpoint: str
    model_id: str
    links: dict[str, LinkSpec]
    bytes_per_second: float
    copies_at_once: int


class NodeStart(msgspec.Struct, frozen=True):
    """The first line a node reads. `links`: its way to each other node and to the origin."""

    node_id: str
    service_url: str
    cluster_id: str
    model_id: str
    memory_bytes: int
    data_dir: str
    links: dict[str, LinkSpec]
    bytes_per_second: float
    origin_calls_url: str
    probe_seconds: float
    seed: int


class Play(msgspec.Struct, frozen=True):
    """Serve these requests, whose times count from `begin` (seconds since the epoch)."""

    begin: float
    requests: list[Request]


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The process can be called. `experts_url`: where experts are fetched; `model`: what the service is to be
    told of it, from the origin only."""

    calls_url: str
    experts_url: str
    model: dict[str, object] | None = None


class CallTimes(msgspec.Struct, frozen=True):
    """Calls of single tokens to one place: how many, and what they took together."""

    calls: int = 0
    seconds: float = 0.0

    def with_one(self, seconds: float) -> CallTimes:
        return CallTimes(self.calls + 1, self.seconds + seconds)


class Pulse(msgspec.Struct, frozen=True, tag=True):
    """How a node is, a few times a second. `in_progress`: requests. `calls`: by the name of the place, since
    the last `Play`. The others count from its start: over the tokens generated, what they took, and the
    activations it served itself, of all."""

    held: int
    used_bytes: int
    generation: int | None
    in_progress: int
    tokens: int
    token_seconds: float
    local: int
    activations: int
    calls: dict[str, CallTimes]


class Finished(msgspec.Struct, frozen=True, tag=True):
    """A request that a node has answered.

    `tokens` were generated, `logits` is float32[256] after the last; `routes` uint8[tokens, 6, 2] are the
    experts of the generated ones. `ended`, `seconds` and `expert_seconds` have a number per generated token:
    when it was done, what it took, and how much of that was waiting for experts. The counts and bytes are
    those of the generated tokens.
    """

    number: int
    tokens: bytes
    logits: bytes
    routes: bytes
    prompt_seconds: float
    ended: list[float]
    seconds: list[float]
    expert_seconds: list[float]
    local: int
    remote: int
    origin: int
    again: int
    bytes_exchanged: int


class Failed(msgspec.Struct, frozen=True, tag=True):
    """A request that could not be answered, and why."""

    number: int
    why: str


class Expected(msgspec.Struct, frozen=True, tag=True):
    """The same request answered by the whole model in one process."""

    number: int
    tokens: bytes
    logits: bytes
    routes: bytes


Told = Ready | Pulse | Finished | Failed | Expected
