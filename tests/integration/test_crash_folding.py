"""Telemetry survives `kill -9` of everything, at any moment: what was acknowledged is counted, once.

The server's append-only file is synced every second, so a power cut may lose a second; the death of its
process loses nothing, since what it wrote is with the kernel before it answers.
"""

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import TEST_SERVER
from tests.senders import (
    NODES,
    SETTLE_SECONDS,
    Posting,
    Sender,
    read_left_behind,
    register,
    require_counted_once,
    wait_until_folded,
)
from tests.service import Service

CLUSTER = "crash"
CHILDREN = ("api", "worker", "server")
ROUNDS = 3


def kill_in_turn(service: Service, rng: random.Random) -> dict[str, int]:
    """Each child several times, in random order, at random moments."""
    kills = dict.fromkeys(CHILDREN, 0)
    for _ in range(ROUNDS):
        for name in rng.sample(CHILDREN, len(CHILDREN)):
            time.sleep(rng.uniform(0.1, 1.5))
            deadline = time.monotonic() + SETTLE_SECONDS
            while True:
                try:
                    service.kill_child(name)
                except LookupError:
                    assert time.monotonic() < deadline, f"{name} does not come back:\n{service.logs()}"
                    time.sleep(0.05)
                else:
                    kills[name] += 1
                    break
    return kills


@pytest.mark.timeout(300)
def test_what_was_acknowledged_is_counted_once(serve: Callable[..., Service], tmp_path: Path) -> None:
    """Three nodes post while API, worker and server are killed again and again; the sums agree exactly."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    data_dir = tmp_path / "data"
    service = serve(data_dir=data_dir, env={"MOEPLACE_WORKER_LEASE_SECONDS": "2"})
    register(service.base_url, CLUSTER)
    senders = [Sender(service.base_url, CLUSTER, node_id, rng.randrange(2**32)) for node_id in NODES]
    with Posting(senders):
        kills = kill_in_turn(service, rng)
    assert min(kills.values()) == ROUNDS
    wait_until_folded(service)
    assert service.terminate() == 0, service.logs()

    folded = asyncio.run(read_left_behind(data_dir, CLUSTER, TEST_SERVER))
    print(folded, {s.node_id: (s.windows, s.repeats) for s in senders})
    require_counted_once(folded, senders)
    assert min(sender.windows for sender in senders) > 5
