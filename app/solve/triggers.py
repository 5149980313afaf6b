"""When a cluster's placement is computed anew, and why."""

import hashlib
from dataclasses import dataclass, replace
from enum import StrEnum

from app.clusters.schemas import ClusterSettings
from app.nodes.schemas import NodeRecord
from app.observe.observation import InForce, Observation

SETTLE_SECONDS = 1.0
"""What joins or changes seldom comes alone: the solve waits until nothing has changed for this long."""

FIRST_TELEMETRY_SECONDS = 5.0
"""From the first window until a placement made without any is reconsidered: the other nodes' should be in."""


class Reason(StrEnum):
    """What made the service look; as `reason` in a placement's evidence."""

    FIRST_PLACEMENT = "FIRST_PLACEMENT"
    NODES_LOST = "NODES_LOST"
    NODES_DRAINING = "NODES_DRAINING"
    NODES_JOINED = "NODES_JOINED"
    NODES_CHANGED = "NODES_CHANGED"
    MODELS_CHANGED = "MODELS_CHANGED"
    SETTINGS_CHANGED = "SETTINGS_CHANGED"
    FIRST_TELEMETRY = "FIRST_TELEMETRY"
    INTERVAL = "INTERVAL"
    OPERATOR = "OPERATOR"


URGENT = frozenset({Reason.NODES_LOST})
"""Not to be waited with: tokens may have nobody to call."""


@dataclass(frozen=True)
class Situation:
    """What a placement depends on, apart from traffic."""

    usable: frozenset[str]
    draining: frozenset[str]
    nodes: tuple[tuple[str, str], ...]
    models: tuple[tuple[str, str], ...]
    settings: str

    @classmethod
    def of(cls, observation: Observation) -> "Situation":
        fleet = observation.fleet
        return cls(
            usable=observation.usable,
            draining=frozenset(node.node_id for node in fleet.nodes if node.draining) & observation.live,
            nodes=tuple((node.node_id, _room(node)) for node in fleet.nodes),
            models=tuple((model.model_id, model.digest) for model in fleet.models),
            settings=observation.cluster.settings.model_dump_json(),
        )

    @property
    def without_drains(self) -> "Situation":
        """A node that is lost does not count as draining; whether it does is the same to a placement."""
        return replace(self, draining=frozenset())

    def change_since(self, before: "Situation") -> Reason | None:
        """The most pressing difference."""
        left = before.usable - self.usable
        if left - self.draining:
            return Reason.NODES_LOST
        if left:
            return Reason.NODES_DRAINING
        if self.models != before.models:
            return Reason.MODELS_CHANGED
        if self.usable - before.usable:
            return Reason.NODES_JOINED
        known = dict(before.nodes)
        if any(known.get(node_id, room) != room for node_id, room in self.nodes):
            return Reason.NODES_CHANGED
        if self.settings != before.settings:
            return Reason.SETTINGS_CHANGED
        return None


class Triggers:
    """Decides, look by look, whether to solve. Times are of a monotonic clock, seconds."""

    def __init__(self) -> None:
        self._solved: Situation | None = None
        self._last: Situation | None = None
        self._changed_at = 0.0
        self._telemetry_since: float | None = None
        self._solved_at: float | None = None
        self._solved_until: object = None
        self._solved_generation: int | None = None

    def due(self, observation: Observation, telemetry_until: object, now: float) -> Reason | None:
        """Why to solve now; None: not now.

        telemetry_until: end of the newest folded window, None before the first. It is only compared.
        """
        situation = Situation.of(observation)
        if situation != self._last:
            self._last, self._changed_at = situation, now
        if telemetry_until is None:
            self._telemetry_since = None
        elif self._telemetry_since is None:
            self._telemetry_since = now
        settings = observation.cluster.settings
        if not observation.recomputes:
            return None
        if not situation.models or not situation.usable:
            return None
        settled = now - self._changed_at >= SETTLE_SECONDS
        if observation.in_force is None:
            # Tried and found impossible: again when something has changed, or on the interval.
            fresh = situation != self._solved or self._interval_passed(settings, now)
            return Reason.FIRST_PLACEMENT if settled and fresh else None
        if self._solved is None:
            return self._after_takeover(observation, situation)
        change = situation.change_since(self._solved)
        if change is not None and (change in URGENT or settled):
            return change
        if self._blind(observation.in_force) and self._telemetry_since is not None:
            wait = min(FIRST_TELEMETRY_SECONDS, settings.optimization_interval_seconds)
            if now - self._telemetry_since >= wait:
                return Reason.FIRST_TELEMETRY
        if telemetry_until is None or not self._interval_passed(settings, now):
            return None
        moved_on = telemetry_until != self._solved_until
        published = observation.in_force.generation != self._solved_generation
        return Reason.INTERVAL if moved_on or published else None

    def solving(self, observation: Observation, telemetry_until: object, now: float) -> None:
        """A solve of this observation begins."""
        self._solved = Situation.of(observation)
        self._solved_at = now
        self._solved_until = telemetry_until
        self._solved_generation = None if observation.in_force is None else observation.in_force.generation

    def forget(self) -> None:
        """The last solve came to nothing: look at the situation as if none had been solved."""
        self._solved = None
        self._solved_at = None

    def published(self, generation: int) -> None:
        self._solved_generation = generation

    def _blind(self, in_force: InForce) -> bool:
        """The placement is the service's own guess, and nothing has been solved with telemetry since."""
        evidence = in_force.document.evidence
        return evidence.solved and evidence.telemetry_until is None and self._solved_until is None

    def _interval_passed(self, settings: ClusterSettings, now: float) -> bool:
        return self._solved_at is None or now - self._solved_at >= settings.optimization_interval_seconds

    @staticmethod
    def _after_takeover(observation: Observation, situation: Situation) -> Reason:
        """This worker has not solved here yet: the placement in force may name nodes that left since."""
        assert observation.in_force is not None
        spec = observation.in_force.document.spec
        if set(spec.nodes) - situation.usable - situation.draining:
            return Reason.NODES_LOST
        if set(spec.nodes) & situation.draining:
            return Reason.NODES_DRAINING
        if set(spec.models) != {model_id for model_id, _ in situation.models}:
            return Reason.MODELS_CHANGED
        if situation.usable - set(spec.nodes):
            return Reason.NODES_JOINED
        return Reason.INTERVAL


def _room(node: NodeRecord) -> str:
    devices = [(device.device_id, device.memory_bytes) for device in node.spec.devices]
    return hashlib.sha256(repr(devices).encode()).hexdigest()[:16]
