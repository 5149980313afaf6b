"""One run: a cluster drawn from a seed, everything that befalls it, and how it ends."""

import asyncio
import contextlib
import logging
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import structlog

from app.clusters.schemas import ClusterRecord, ClusterSettings, OriginSpec
from app.config import Settings
from app.errors import ProblemError
from app.migration_plans import service as plans
from app.migration_plans.schemas import CancelMode, PlanRequest, PlanVerb
from app.models.schemas import Block, ModelRecord
from app.nodes.schemas import HeldExperts, NodeHoldings, NodeRecord
from app.nodes.service import drain_node, undrain_node
from app.placements.schemas import OperatorPlacement
from app.placements.service import put_placement, rollback
from app.storage import clock
from app.storage.keys import ClusterKeys
from moeplace_agent.holdings import ExpertKey
from moeplace_agent.routing import Local
from tests.simulation.clock import BEGINS_AT, VirtualLoop, process, virtual_time
from tests.simulation.faults import Faults, harmless, severe
from tests.simulation.invariants import Violation, Watch
from tests.simulation.node import Node, Shape
from tests.simulation.store import Store
from tests.simulation.transport import Service
from tests.simulation.workers import Workers

CLUSTER = "c"
MODEL = "m"
EXPERT_BYTES = 1_000_000
TROUBLE_SECONDS = 90.0
"""How long things go wrong."""
SETTLE_SECONDS = 900.0
"""How long it may take from then on until the last generation is what nodes hold."""

SKEW_LEASES = 2.0
"""Leases by which the clock of a host may be ahead of the server's or behind it."""

Placement = dict[str, set[ExpertKey]]


@dataclass
class Outcome:
    """What a run came to. `lost`: experts of which no copy is left anywhere, so that nothing can converge."""

    seed: int
    converged_seconds: float | None
    lost: bool
    seen: Counter[str]
    diary: list[str] = field(repr=False)


def run(seed: int, *, calm: bool = False) -> Outcome:
    """The whole run; raises `Violation` with the seed and the end of the diary. `calm`: without faults."""
    loop = VirtualLoop(random.Random(seed))
    agents = logging.getLogger("moeplace_agent")
    level = agents.level
    agents.setLevel(logging.CRITICAL)
    try:
        with virtual_time(loop, seed), structlog.testing.capture_logs():
            return loop.run_until_complete(_run(seed, calm))
    finally:
        agents.setLevel(level)
        loop.close()


async def _run(seed: int, calm: bool) -> Outcome:
    scenario = Scenario(seed, calm)
    try:
        converged = await scenario.play()
        return Outcome(seed, converged, scenario.lost, scenario.watch.seen.copy(), list(scenario.watch.diary))
    except Violation as violation:
        diary = "\n".join(scenario.watch.diary[-120:])
        raise Violation(f"seed {seed}{' (calm)' if calm else ''}: {violation}\n{diary}") from violation
    finally:
        await scenario.close()


class Scenario:
    """Cluster, nodes and workers of one run."""

    def __init__(self, seed: int, calm: bool) -> None:
        self.rng = rng = random.Random(seed)
        self.calm = calm
        self.faults: Faults = harmless(rng) if calm else severe(rng)
        self.keys = ClusterKeys(CLUSTER)
        self.store = Store()
        self.has_origin = rng.random() < 0.3
        self.settings = Settings(
            node_lease_seconds=12.0,
            heartbeat_interval_seconds=3.0,
            worker_tick_seconds=1.0,
            worker_lease_seconds=5.0,
        )
        count = rng.randint(3, 5)
        names = [f"n{number}" for number in range(count)]
        self.experts = [ExpertKey(MODEL, layer, e) for layer in range(2) for e in range(rng.randint(2, 4))]
        self.min_replicas = rng.choice((1, 1, 2))
        most = -(-len(self.experts) * self.min_replicas // count) + 1
        self.slots = {name: rng.randint(most, most + 3) for name in names}
        self.cluster_settings = ClusterSettings(
            automatic=False,
            origin=OriginSpec(egress_bytes_per_second=2e6) if self.has_origin else None,
            min_replicas=self.min_replicas,
            max_copies_per_node=rng.choice((1, 2, 4)),
            max_copies_per_cluster=rng.choice((2, 64)),
        )
        self.watch = Watch(
            self.keys,
            min_replicas=self.min_replicas,
            origin=self.has_origin,
            lease_seconds=self.settings.node_lease_seconds,
        )
        most_ahead = SKEW_LEASES * self.settings.node_lease_seconds
        clocks = random.Random(f"clocks {seed}")
        self.ahead: Callable[[], float] = partial(clocks.uniform, -most_ahead, most_ahead)
        """Seconds by which the clock of another process is ahead of the server's."""
        self.store.written = self.watch.written
        self.store.scored = self._scored
        self.service = Service(self.store, CLUSTER, self.settings, self.faults)
        self.redis = self.service.redis
        self.workers = Workers(self.store, self.keys, self.settings, self.faults, self.watch, self.ahead)
        self.nodes = {name: self._node(name, names) for name in names}
        self.watch.nodes = self.nodes
        self.watch.newest = self._newest_table
        self.target: Placement = {}
        self.lost = False
        self._tasks: list[asyncio.Task[Any]] = []

    def _node(self, name: str, names: list[str]) -> Node:
        rng = self.rng
        shape = Shape(
            node_id=name,
            memory_bytes=(self.slots[name] + 1) * EXPERT_BYTES,
            ingress_bytes_per_second=rng.choice((0.2e6, 1e6, 1e7)),
            egress_bytes_per_second=rng.choice((0.2e6, 1e6, 1e7)),
            peers_seconds={peer: rng.uniform(0.001, 0.02) for peer in names if peer != name},
            origin_seconds=0.1 if self.has_origin else None,
            expert_bytes=EXPERT_BYTES,
            says_moves_version=name != names[-1],
        )
        return Node(shape, self.service, self.faults, self.watch, self.ahead, peers=lambda: self.nodes)

    def _scored(self, key: str, member: str, score: float | None) -> None:
        if key == self.keys.node_leases:
            self.watch.lease(member, score)

    def _newest_table(self, node_id: str) -> str | None:
        parts = self.store.hmget(self.keys.assignment(node_id), ["uid", "generation", "digest"])
        return b".".join(part for part in parts if part is not None).decode() or None

    # --- the course of events
    async def play(self) -> float | None:
        """Seconds from the last fault until the fleet has converged; None where copies are lost for good."""
        await clock.PROCESS_CLOCK.measure(self.redis)
        self._register()
        placement = self._draw(self.nodes)
        if not (self.has_origin and self.rng.random() < 0.5):
            for name, held in placement.items():
                self.nodes[name].memory = set(held)
        self._expect({name: node.memory for name, node in self.nodes.items()})
        for node in self.nodes.values():
            node.start()
        self.workers.start()
        await self._pass(5.0)
        for misfortune in self._misfortunes():
            self._tasks.append(process(misfortune, self.ahead()))
        await self._pass(TROUBLE_SECONDS)
        await self._end_of_troubles()
        return await self._converge()

    def _misfortunes(self) -> list[Any]:
        rng = self.rng
        courses: list[Any] = [self._operator()]
        if not self.calm:
            chosen = [self._crashes(), self._partitions(), self._slow_links(), self._failovers()]
            for course in chosen:
                if rng.random() < 0.6:
                    courses.append(course)
                else:
                    course.close()
        if rng.random() < 0.5:
            courses.append(self._commands())
        if rng.random() < 0.3:
            courses.append(self._drains())
        return courses

    async def _pass(self, seconds: float) -> None:
        """Let time go by; a task that failed, or an agent that ended, fails the run."""
        until = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.5)
            self._look()

    def _look(self) -> None:
        self.watch.look_at_leases()
        for node in self.nodes.values():
            error = node.failed()
            if error is not None:
                raise _cause(error)
        self.workers.look()
        for task in self._tasks:
            if task.done() and not task.cancelled() and task.exception() is not None:
                raise cast("BaseException", task.exception())

    async def _operator(self) -> None:
        """Brings placements into force, now and then while the last one is still on its way."""
        while True:
            await self._publish()
            await asyncio.sleep(self.rng.choice((2.0, 10.0, 25.0, 60.0)))

    async def _publish(self) -> None:
        staying = [name for name in self.nodes if name not in self._draining()]
        names = [name for name in staying if self.nodes[name].up or self.rng.random() < 0.5]
        placement = self._draw(names) or self._draw(staying)
        holds = [NodeHoldings(node_id=name, holds=_grouped(held)) for name, held in sorted(placement.items())]
        try:
            if self.rng.random() < 0.1 and (self.watch.seen["generations"]):
                document = await rollback(self.redis, CLUSTER, self.rng.randint(1, 5))
            else:
                document = await put_placement(
                    self.redis, CLUSTER, OperatorPlacement(holds=holds), lambda _: None
                )
        except ProblemError as error:
            self.watch.note(f"operator refused: {error.detail}")
            return
        self.watch.seen["generations"] += 1
        self.watch.note(f"generation {document.generation}")

    async def _commands(self) -> None:
        while True:
            await asyncio.sleep(self.rng.uniform(0.0, 20.0))
            active = self.store.get(self.keys.plan_active)
            if active is None:
                continue
            verb, mode = self.rng.choice(
                [
                    (PlanVerb.PAUSE, None),
                    (PlanVerb.RESUME, None),
                    (PlanVerb.RESUME, None),
                    (PlanVerb.CANCEL, CancelMode.DRAIN),
                    (PlanVerb.CANCEL, CancelMode.ROLLBACK),
                ]
            )
            with contextlib.suppress(ProblemError):
                await plans.command(self.redis, CLUSTER, active.decode(), verb, mode)
                self.watch.note(f"operator: {verb} {mode}")
                self.watch.seen["commands"] += 1

    async def _crashes(self) -> None:
        while True:
            await asyncio.sleep(self.rng.uniform(3.0, 40.0))
            node = self.rng.choice([self.nodes[name] for name in sorted(self.nodes)])
            if not node.up:
                continue
            wipe = self.rng.random() < 0.5 and (self.has_origin or self._spared(node))
            await node.stop(wipe=wipe)
            await asyncio.sleep(self.rng.choice((0.5, 5.0, 20.0, 40.0)))
            node.start()
            self.watch.note(f"{node.node_id} starts again")

    def _spared(self, node: Node) -> bool:
        """Whether every expert would have a copy left."""
        others = [other for other in self.nodes.values() if other is not node]
        return all(any(key in other.memory for other in others) for key in node.memory)

    async def _partitions(self) -> None:
        while True:
            await asyncio.sleep(self.rng.uniform(3.0, 40.0))
            node = self.nodes[self.rng.choice(sorted(self.nodes))]
            client = node.client
            if client is None:
                continue
            self.watch.note(f"{node.node_id} is cut off")
            self.watch.seen["partitions"] += 1
            client.partitioned = True
            await asyncio.sleep(self.rng.uniform(1.0, 40.0))
            client.partitioned = False
            self.watch.note(f"{node.node_id} is back on the network")

    async def _drains(self) -> None:
        """Nodes leave in order. Their agents, still running, register them anew once they are gone; they get
        nothing until the operator lets them in."""
        while True:
            await asyncio.sleep(self.rng.uniform(5.0, 30.0))
            out = sorted(self._draining())
            if out:
                if self.rng.random() < 0.5:
                    await self._let_in(self.rng.choice(out))
                continue
            name = self.rng.choice(sorted(self.nodes))
            if not self._draw([other for other in self.nodes if other != name]):
                continue
            with contextlib.suppress(ProblemError):
                await drain_node(self.redis, self.settings, CLUSTER, name)
                self.watch.note(f"operator drains {name}")
            await self._publish()

    async def _let_in(self, name: str) -> None:
        with contextlib.suppress(ProblemError):
            await undrain_node(self.redis, self.settings, CLUSTER, name)
            self.watch.note(f"operator lets {name} in")

    def _draining(self) -> set[str]:
        records = [NodeRecord.model_validate_json(r) for r in self.store.hgetall(self.keys.nodes).values()]
        return {record.node_id for record in records if record.draining}

    async def _slow_links(self) -> None:
        while True:
            node = self.nodes[self.rng.choice(sorted(self.nodes))]
            node.slowness = self.rng.choice((1.0, 3.0, 30.0))
            await asyncio.sleep(self.rng.uniform(3.0, 30.0))

    async def _failovers(self) -> None:
        while True:
            await asyncio.sleep(self.rng.uniform(1.0, 30.0))
            await self.workers.fail_over(zombie=self.rng.random() < 0.4, gap=self.rng.choice((0.0, 1.0, 8.0)))

    # --- the end
    async def _end_of_troubles(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        self.faults.over()
        for node in self.nodes.values():
            node.slowness = 1.0
            if not node.up:
                node.start()
            if node.client is not None:
                node.client.partitioned = False
        self.workers.ensure()
        self.watch.note("no faults any more")
        # What is still under way may come late; then the last generation.
        await self._pass(40.0)
        await self._all_registered()
        held = {key for node in self.nodes.values() for key in node.memory}
        self.lost = not self.has_origin and not held.issuperset(self.experts)
        draining = self._draining()
        self.target = self._draw([name for name in self.nodes if name not in draining])
        if not self.target:  # too few are left to hold everything
            for name in sorted(draining):
                await self._let_in(name)
            self.target = self._draw(self.nodes)
        holds = [NodeHoldings(node_id=n, holds=_grouped(held)) for n, held in sorted(self.target.items())]
        before = self.store.hget(self.keys.placement, "generation")
        document = await put_placement(self.redis, CLUSTER, OperatorPlacement(holds=holds), lambda _: None)
        self.watch.note(f"generation {document.generation}, the last")
        if before == str(document.generation).encode():
            # In force already, and its plan may be paused or cancelled: then it goes on only when asked to.
            active = self.store.get(self.keys.plan_active)
            if active is not None:
                with contextlib.suppress(ProblemError):
                    await plans.command(self.redis, CLUSTER, active.decode(), PlanVerb.RESUME)
            request = PlanRequest(to_generation=document.generation, validate_only=False)
            await plans.create_plan(self.redis, CLUSTER, request)
            self.watch.seen["requests"] += 1

    async def _all_registered(self) -> None:
        """One that drained to its end just now is about to register anew, which takes it a few heartbeats."""
        known: set[str] = set()
        for _ in range(60):
            known = {name.decode() for name in self.store.hgetall(self.keys.nodes)}
            if known.issuperset(self.nodes):
                return
            await self._pass(1.0)
        raise Violation(f"not registered again: {sorted(self.nodes.keys() - known)}")

    async def _converge(self) -> float | None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        while loop.time() - begun < SETTLE_SECONDS:
            await self._pass(1.0)
            different = self._different()
            if different is None:
                return loop.time() - begun
            if self.lost and loop.time() - begun > 60.0:
                return None
        self.watch.note(f"not converged: {self._different()}")
        raise Violation(f"not converged after {SETTLE_SECONDS:g} s: {self._different()}")

    def _different(self) -> str | None:
        """In words, what is not yet as the last generation says."""
        for name, node in sorted(self.nodes.items()):
            if node.memory != self.target[name]:
                more, less = node.memory - self.target[name], self.target[name] - node.memory
                return f"{name} holds {sorted(map(str, more))} too many, lacks {sorted(map(str, less))}"
        if self.store.get(self.keys.plan_active) is not None:
            return "a plan is active"
        for name, node in sorted(self.nodes.items()):
            fault = self._routes_fault(node)
            if fault is not None:
                return f"{name}: {fault}"
        return None

    def _routes_fault(self, node: Node) -> str | None:
        if node.agent is None or node.routes is None:
            return "no routes"
        for key in self.experts:
            places = node.routes.where(node.agent.holdings, *key)
            if not places:
                return f"nowhere to call for {key}"
            for place in places:
                if isinstance(place, Local) or place.node_id is None:
                    continue
                if not self.nodes[place.node_id].serves(key):
                    return f"routes to {key} at {place.node_id}, which does not hold it"
            if key in self.target[node.node_id] and not isinstance(places[0], Local):
                return f"calls elsewhere for {key}, which it is to serve itself"
        return None

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self.workers.close()
        for node in self.nodes.values():
            if node.up:
                with contextlib.suppress(Exception, BaseExceptionGroup):
                    await node.stop(wipe=False)
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    # --- drawing
    def _register(self) -> None:
        cluster = ClusterRecord(
            cluster_id=CLUSTER,
            uid="u",
            created_at=BEGINS_AT,
            updated_at=BEGINS_AT,
            settings=self.cluster_settings,
        )
        layers = sorted({key.layer for key in self.experts})
        blocks = [
            Block(
                layer=layer,
                experts=sum(key.layer == layer for key in self.experts),
                expert_bytes=EXPERT_BYTES,
                top_k=1,
            )
            for layer in layers
        ]
        model = ModelRecord(
            model_id=MODEL,
            digest="d",
            created_at=BEGINS_AT,
            updated_at=BEGINS_AT,
            blocks=blocks,
            source="blocks",
            origin_url="http://origin" if self.has_origin else None,
        )
        self.store.set(self.keys.cluster, cluster.model_dump_json())
        self.store.hset(self.keys.models, MODEL, model.model_dump_json())
        self.store.incr(self.keys.revision)

    def _draw(self, names: Any) -> Placement:
        """A placement over the nodes named, with enough copies of each expert; empty where none is found."""
        rng = self.rng
        for _ in range(50):
            free = {name: self.slots[name] for name in names}
            placement: Placement = {name: set() for name in names}
            experts = list(self.experts)
            rng.shuffle(experts)
            for key in experts:
                able = [name for name in sorted(free) if free[name]]
                count = self.min_replicas + (rng.random() < 0.3)
                for name in rng.sample(able, min(count, len(able))):
                    placement[name].add(key)
                    free[name] -= 1
            if all(
                sum(key in held for held in placement.values()) >= self.min_replicas for key in self.experts
            ):
                return {name: placement.get(name, set()) for name in self.nodes}
        return {}

    def _expect(self, placement: Placement) -> None:
        """Of every generation too, as the service refuses a placement with fewer than min_replicas copies."""
        self.watch.generation({key: sum(key in held for held in placement.values()) for key in self.experts})


def _cause(error: BaseException) -> BaseException:
    """The violation within a group of errors, where there is one."""
    if isinstance(error, BaseExceptionGroup):
        found = error.subgroup(Violation)
        if found is not None:
            return _cause(found.exceptions[0])
    return error


def _grouped(held: set[ExpertKey]) -> list[HeldExperts]:
    layers: dict[int, list[int]] = {}
    for key in sorted(held):
        layers.setdefault(key.layer, []).append(key.expert)
    return [HeldExperts(model_id=MODEL, layer=layer, experts=experts) for layer, experts in layers.items()]
