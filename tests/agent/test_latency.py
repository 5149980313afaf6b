"""What a node says its calls cost, from what it has measured."""

import asyncio
from collections.abc import Mapping

import pytest

from moeplace_agent.experts.fetching import ORIGIN
from moeplace_agent.latency import CALL_SECONDS, LatencyMeter
from moeplace_agent.probing import Prober
from tests.agent.experts import free_url, misbehaving_server, refusing, shelf_server


def test_nothing_measured_says_nothing() -> None:
    """What was configured stays in force."""
    assert LatencyMeter("n1", expert_seconds=0.5).report() is None


def test_a_call_is_a_round_trip_and_the_experts_time() -> None:
    """The median counts: one slow probe changes nothing."""
    meter = LatencyMeter("n1", expert_seconds=0.001)
    for seconds in (0.004, 0.004, 0.9):
        meter.probed("n2", seconds)
    meter.probed(ORIGIN, 0.05)
    assert meter.report() == {
        "local_seconds": 0.001,
        "peers_seconds": {"n2": pytest.approx(0.005)},
        "origin_seconds": pytest.approx(0.051),
    }


def test_what_the_engine_tells_counts_instead_while_it_is_fresh() -> None:
    """Means of real calls, local ones included; a minute later the probes are all there is again."""
    now = 0.0
    meter = LatencyMeter("n1", expert_seconds=0.001, clock=lambda: now)
    meter.probed("n2", 0.004)
    for seconds in (0.010, 0.030):
        meter.called("n2", seconds)
    meter.called("n1", 0.002)
    assert meter.report() == {
        "local_seconds": 0.002,
        "peers_seconds": {"n2": pytest.approx(0.020)},
        "origin_seconds": None,
    }
    now = CALL_SECONDS + 1
    report = meter.report()
    assert report is not None
    assert report["peers_seconds"] == {"n2": pytest.approx(0.006)}


def test_small_changes_are_not_told() -> None:
    """A tenth more or less stays as it was told, so that the service is not woken by noise; more is told."""
    now = 0.0
    meter = LatencyMeter("n1", clock=lambda: now)
    told = []
    for seconds in (0.0100, 0.0108, 0.0095, 0.0130):
        now += 2 * CALL_SECONDS
        meter.called("n2", seconds)
        report = meter.report()
        assert report is not None
        told.append(report["peers_seconds"]["n2"])
    assert told == [0.0100, 0.0100, 0.0100, 0.0130]


@pytest.mark.anyio
async def test_places_are_visited_and_the_dead_are_told_apart() -> None:
    """A peer that answers gets its round trip; one that does not gets the time it was waited for, once it has
    failed several times; one that is gone from the cluster is forgotten."""
    meter = LatencyMeter("n1")
    async with shelf_server() as alive, misbehaving_server(refusing("500 Broken")) as (broken, _):
        known: Mapping[str, str] = {"alive": alive, "dead": free_url(), "broken": broken}

        async def places() -> Mapping[str, str]:
            return known

        prober = Prober(meter, places, interval_seconds=0.01, use_environment=False)
        task = asyncio.create_task(prober.run())
        try:
            async with asyncio.timeout(10):
                while meter.names() != known.keys():  # noqa: ASYNC110 - nobody announces it
                    await asyncio.sleep(0.02)
            report = meter.report()
            assert report is not None
            measured = report["peers_seconds"]
            assert 0 < measured["alive"] < 1
            assert measured["dead"] == measured["broken"] == 2.0
            known = {"alive": alive, ORIGIN: alive}
            async with asyncio.timeout(10):
                while meter.names() != known.keys():  # noqa: ASYNC110 - nobody announces it
                    await asyncio.sleep(0.02)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.mark.anyio
async def test_endless_and_slow_places_do_not_keep_the_others_from_being_measured() -> None:
    """Some places drip their answers, and one answers without end: the peer that answers at once is visited
    again soon, and what the endless one sends is not collected."""
    sent = 0

    async def endless(_: str | None, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(bytes(1 << 20))
            await writer.drain()
            sent += 1 << 20

    async def slow(_: str | None, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while True:
            writer.write(b".")
            await writer.drain()
            await asyncio.sleep(0.2)

    meter = LatencyMeter("n1")
    async with (
        misbehaving_server(refusing("404 Not Found")) as (alive, visits),
        misbehaving_server(endless) as (large, _),
        misbehaving_server(slow) as (dripping, _),
    ):
        known = {"alive": alive, "large": large, **{f"slow-{n}": dripping for n in range(5)}}

        async def places() -> Mapping[str, str]:
            return known

        prober = Prober(meter, places, interval_seconds=0.01, use_environment=False)
        task = asyncio.create_task(prober.run())
        try:
            async with asyncio.timeout(10):
                # Three requests a visit: the second visit comes once the slow ones have been given up.
                while len(visits.ranges) < 6 or "large" not in meter.names():  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    assert sent < 64 << 20
    report = meter.report()
    assert report is not None
    assert report["peers_seconds"]["alive"] < 1
