"""Processes of a whole fleet are killed at random moments while telemetry is posted.

Three nodes post windows to a cluster that only folds, and note what was acknowledged. Three real agents and
an origin move experts in a second cluster, whose solver always has work. SIGKILL goes to the API, the worker,
the Valkey server, solver processes and agents, in an order and with pauses that the seed alone decides. What
was acknowledged must then be counted once, to the last activation.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.soak import agents
from tests.senders import (
    NODES,
    Folded,
    Posting,
    Sender,
    read_left_behind,
    register,
    require_counted_once,
    wait_until_folded,
)
from tests.service import Service, start_service

CLUSTER = "soak"
CHILDREN = ("api", "worker", "server")
KINDS = (*CHILDREN, "solver", *agents.NODES)
BACK_SECONDS = 180.0
"""A process that was killed is there again within this."""

SECONDS_A_KILL = 10.0
"""The run is given up where kills take longer than this on average."""

CONVERGED_SECONDS = 600.0
WINDOW_PAUSE_SECONDS = 0.01
STATISTICS_SECONDS = 604_800.0
"""Nothing is forgotten before it was compared."""

ENVIRONMENT = {
    "MOEPLACE_HEARTBEAT_INTERVAL_SECONDS": "1",
    "MOEPLACE_TELEMETRY_INTERVAL_SECONDS": "1",
    "MOEPLACE_WORKER_TICK_SECONDS": "0.5",
    "MOEPLACE_WORKER_LEASE_SECONDS": "2",
    "MOEPLACE_NODE_LEASE_SECONDS": "5",
}


@dataclass(frozen=True)
class Kill:
    """`kind`: one of `KINDS`. `which`: in [0, 1), picks one of several processes of that kind."""

    pause_seconds: float
    kind: str
    which: float


def schedule(kills: int, seed: int) -> list[Kill]:
    """Every kind as often as any other, in rounds of random order; every fifth kill follows the one before at
    once."""
    rng = random.Random(seed)
    kinds: list[str] = []
    while len(kinds) < kills:
        kinds += rng.sample(KINDS, len(KINDS))
    return [
        Kill(0.0 if rng.random() < 0.2 else rng.uniform(0.1, 3.0), kind, rng.random())
        for kind in kinds[:kills]
    ]


@dataclass(frozen=True)
class Outcome:
    """`failures`: what is wrong, empty where all is well. `repeats`: windows sent again after their
    acknowledgement was lost. `longest_seconds`: a window's wait for its acknowledgement. `given`, `counted`:
    windows that engines gave to real agents, and those that were folded."""

    kills: dict[str, int]
    seconds: float
    acknowledged: int
    repeats: int
    folded: int
    left: int
    activations: int
    longest_seconds: float
    given: int
    counted: int
    converged_seconds: float | None
    failures: list[str]


def run(kills: int, seed: int, say: Callable[[str], None]) -> Outcome:
    """The whole run, in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="moeplace-soak-") as folder:
        return _run(Path(folder), schedule(kills, seed), seed, say)


def _run(root: Path, planned: list[Kill], seed: int, say: Callable[[str], None]) -> Outcome:
    failures: list[str] = []
    done: Counter[str] = Counter()
    data_dir = root / "data"
    begun = time.monotonic()
    service = start_service(env=ENVIRONMENT, data_dir=data_dir)
    try:
        register(service.base_url, CLUSTER, statistics_window_seconds=STATISTICS_SECONDS)
        senders = [
            Sender(service.base_url, CLUSTER, node_id, seed + index, WINDOW_PAUSE_SECONDS)
            for index, node_id in enumerate(NODES)
        ]
        with agents.AgentFleet(root, service.base_url, seed) as fleet:
            try:
                with Posting(senders):
                    _kill_all(service, fleet, senders, planned, done, say)
                fleet.silence()
                wait_until_folded(service)
                fleet.settle()
            except AssertionError as error:
                failures.append(str(error))
            converged = fleet.wait_until_converged(CONVERGED_SECONDS)
            if converged is None:
                failures.append(f"the agents have not converged {CONVERGED_SECONDS:g} s after the last kill")
            failures += [f"{path} is damaged" for node in fleet.nodes for path in node.damaged()]
        if (status := service.terminate()) != 0:
            failures.append(f"the service ended with status {status}")
        if failures:
            failures.append(service.logs()[-4000:])
    finally:
        service.kill_all()

    folded = asyncio.run(read_left_behind(data_dir, CLUSTER))
    failures += _differences(folded, senders)
    given = sum(engine.given for engine in fleet.engines)
    counted = asyncio.run(read_left_behind(data_dir, agents.CLUSTER)).totals.get("windows_total", 0)
    if counted > given:
        failures.append(f"{counted} windows of agents are counted, and {given} were given to them")
    return Outcome(
        kills={kind: done[kind] for kind in KINDS},
        seconds=time.monotonic() - begun,
        acknowledged=sum(sender.windows for sender in senders),
        repeats=sum(sender.repeats for sender in senders),
        folded=sum(folded.windows.values()),
        left=folded.left,
        activations=int(sum(sender.counts.sum() for sender in senders)),
        longest_seconds=max(sender.longest_seconds for sender in senders),
        given=given,
        counted=counted,
        converged_seconds=converged,
        failures=failures,
    )


def _kill_all(
    service: Service,
    fleet: agents.AgentFleet,
    senders: list[Sender],
    planned: list[Kill],
    done: Counter[str],
    say: Callable[[str], None],
) -> None:
    """Raises `AssertionError` where a process does not come back, a sender fails or the time is over."""
    begun = time.monotonic()
    by_name = {node.node_id: node for node in fleet.nodes}
    for number, kill in enumerate(planned, 1):
        time.sleep(kill.pause_seconds)
        if kill.kind in by_name:
            by_name[kill.kind].kill()
        else:
            _kill_child(service, kill)
        done[kill.kind] += 1
        seconds = time.monotonic() - begun
        if number % 10 == 0:
            windows, repeats = sum(s.windows for s in senders), sum(s.repeats for s in senders)
            say(f"{number} kills in {seconds:.0f} s, {windows} windows acknowledged, {repeats} of them again")
        assert seconds < BACK_SECONDS + SECONDS_A_KILL * len(planned), f"{number} kills took {seconds:.0f} s"
        assert not any(sender.failure for sender in senders), [sender.failure for sender in senders]


def _kill_child(service: Service, kill: Kill) -> None:
    """Wait until there is such a process, and kill it."""
    deadline = time.monotonic() + BACK_SECONDS
    while time.monotonic() < deadline:
        try:
            found = service.solvers() if kill.kind == "solver" else [service.child(kill.kind)]
            if found:
                sorted(found, key=lambda process: process.pid)[int(kill.which * len(found))].kill()
                return
        except (LookupError, psutil.NoSuchProcess):
            pass
        time.sleep(0.02)
    raise AssertionError(f"there is no {kill.kind} process {BACK_SECONDS:g} s after it was killed")


def _differences(folded: Folded, senders: list[Sender]) -> list[str]:
    """In words, what was not counted once; empty where all is."""
    try:
        require_counted_once(folded, senders)
    except AssertionError:
        posted = {sender.node_id: sender.windows for sender in senders}
        return [
            f"acknowledged {posted}, folded {folded.windows}, {folded.left} in the stream, totals "
            f"{folded.totals}; counts agree: "
            f"{ {s.node_id: folded.counts[s.node_id] == s.counts.tolist() for s in senders} }"
        ]
    return []
