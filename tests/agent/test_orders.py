"""What the executor does with orders, possible and impossible ones."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from moeplace_agent.holdings import ExpertKey, Holdings
from moeplace_agent.messages import MoveKind, MoveOrder
from moeplace_agent.orders import OrderExecutor
from moeplace_agent.reports import MoveReport, ReportBox, ReportedState
from moeplace_agent.routing import RoutingTable
from moeplace_agent.storage import EvictFailed, FetchFailed
from tests.agent.assignments import PEER, assignment, order, orders

pytestmark = pytest.mark.anyio


class Shelf:
    """A storage in memory that fails where a test says so, and logs what is done in which order."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.fails: dict[int, Exception] = {}
        self.gate: asyncio.Event | None = None
        self.digest: str | None = None
        self.stuck = False

    async def fetch(self, order: MoveOrder, device_id: str, progress: Callable[[int], None]) -> str | None:
        self.log.append(f"fetch {order.expert}")
        if self.gate is not None:
            await self.gate.wait()
        if order.expert in self.fails:
            raise self.fails[order.expert]
        return self.digest

    async def evict(self, key: ExpertKey, device_id: str) -> None:
        self.log.append(f"evict {key.expert}")
        if self.stuck:
            raise EvictFailed("no")


class Bench:
    def __init__(self, capacity: int = 10, switch_seconds: float = 10.0) -> None:
        self.shelf = Shelf()
        self.holdings = Holdings({"a": capacity})
        self.reports = ReportBox()
        self.table: RoutingTable | None = None
        self.executor = OrderExecutor(
            self.holdings,
            self.shelf,
            self.reports,
            routing=lambda: self.table,
            changed=lambda: self.shelf.log.append("changed"),
            switch_seconds=switch_seconds,
        )

    def hold(self, expert: int, size: int = 4) -> None:
        key = ExpertKey("m", 0, expert)
        self.holdings.reserve(key, size, None)
        self.holdings.complete(key)

    async def idle(self) -> None:
        async with asyncio.timeout(5):
            while self.executor.busy:  # noqa: ASYNC110 - the executor announces reports, not idleness
                await asyncio.sleep(0.01)

    def states(self) -> dict[str, ReportedState]:
        return {report.move_id: report.state for report in self.reports.batch()}

    def report(self, move_id: str) -> MoveReport:
        return next(report for report in self.reports.batch() if report.move_id == move_id)


@asynccontextmanager
async def running(bench: Bench) -> AsyncIterator[None]:
    task = asyncio.create_task(bench.executor.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_copy_over_capacity_is_refused_and_touches_nothing() -> None:
    """The order is checked against local memory before anything is fetched; the reason names the bytes."""
    bench = Bench(capacity=10)
    bench.executor.accept(orders(order(MoveKind.COPY, 1, size=6), order(MoveKind.COPY, 2, size=6)))
    async with running(bench):
        await bench.idle()
    assert bench.states() == {"copy-1": ReportedState.SUCCEEDED, "copy-2": ReportedState.FAILED}
    assert bench.report("copy-2").reason == "m/0/2: needs 6 bytes on device a, which has 4 free"
    assert bench.shelf.log == ["fetch 1", "changed"]
    assert bench.holdings.used_bytes == 6


async def test_a_copy_counts_only_when_it_is_whole() -> None:
    """While it is fetched the expert takes room and is not held."""
    bench = Bench()
    bench.shelf.gate = asyncio.Event()
    bench.executor.accept(orders(order(MoveKind.COPY, 1)))
    async with running(bench):
        await asyncio.sleep(0.05)
        assert (len(bench.holdings), bench.holdings.used_bytes) == (0, 4)
        bench.shelf.gate.set()
        await bench.idle()
    assert bench.holdings.keys == {ExpertKey("m", 0, 1)}


async def test_what_is_obsolete_goes_before_orders_need_its_room() -> None:
    """Experts of a model that is no more are evicted although no table serves them elsewhere, before the next
    order is executed; one that an order names stays."""
    bench = Bench(capacity=10)
    bench.hold(1, size=5)
    bench.hold(2, size=5)
    bench.executor.discard([ExpertKey("m", 0, 1), ExpertKey("m", 0, 2), ExpertKey("m", 0, 7)])
    bench.executor.accept(orders(order(MoveKind.COPY, 2, size=5), order(MoveKind.COPY, 3, size=5)))
    async with running(bench):
        await bench.idle()
    assert bench.shelf.log == ["evict 1", "changed", "fetch 3", "changed"]
    assert bench.states() == {"copy-2": ReportedState.SUCCEEDED, "copy-3": ReportedState.SUCCEEDED}
    assert bench.holdings.keys == {ExpertKey("m", 0, 2), ExpertKey("m", 0, 3)}


@pytest.mark.parametrize("error", [FetchFailed("peer gone"), OSError("disk full")])
async def test_a_failed_copy_gives_its_room_back_and_may_be_tried_again(error: Exception) -> None:
    """FAILED with the reason; the next attempt of the same move is executed."""
    bench = Bench(capacity=4)
    bench.shelf.fails[1] = error
    bench.executor.accept(orders(order(MoveKind.COPY, 1)))
    async with running(bench):
        await bench.idle()
        assert bench.report("copy-1").state is ReportedState.FAILED
        assert bench.report("copy-1").reason == str(error)
        assert bench.holdings.used_bytes == 0
        del bench.shelf.fails[1]
        bench.executor.accept(orders(order(MoveKind.COPY, 1, attempt=2)))
        await bench.idle()
    assert bench.report("copy-1").state is ReportedState.SUCCEEDED
    assert bench.executor.failures == 1


async def test_wrong_bytes_are_not_kept() -> None:
    """A digest other than the model's fails the move and frees the memory."""
    bench = Bench()
    bench.shelf.digest = "b" * 64
    bench.executor.accept(orders(order(MoveKind.COPY, 1, digest="a" * 64)))
    async with running(bench):
        await bench.idle()
    assert bench.report("copy-1").state is ReportedState.FAILED
    assert bench.shelf.log == ["fetch 1", "evict 1"]
    assert bench.holdings.used_bytes == 0


async def test_a_drop_waits_until_calls_go_elsewhere() -> None:
    """The copy stays until a routing table that serves the expert elsewhere is in use; then it goes."""
    bench = Bench()
    bench.hold(1)
    bench.table = RoutingTable(assignment({}))
    bench.executor.accept(orders(order(MoveKind.DROP, 1)))
    async with running(bench):
        await asyncio.sleep(0.05)
        assert ExpertKey("m", 0, 1) in bench.holdings
        bench.table = RoutingTable(assignment({1: [0]}, PEER, generation=2))
        bench.executor.routes_switched()
        await bench.idle()
    assert bench.states() == {"drop-1": ReportedState.SUCCEEDED}
    assert bench.shelf.log == ["evict 1", "changed"]
    assert len(bench.holdings) == 0


async def test_a_drop_that_would_leave_tokens_without_the_expert_fails() -> None:
    """No such table within the time: the copy is kept, and the report says why."""
    bench = Bench(switch_seconds=0.05)
    bench.hold(1)
    bench.executor.accept(orders(order(MoveKind.DROP, 1)))
    async with running(bench):
        await bench.idle()
    assert bench.report("drop-1").state is ReportedState.FAILED
    assert "still serves it here" in (bench.report("drop-1").reason or "")
    assert ExpertKey("m", 0, 1) in bench.holdings


async def test_delivered_twice_executed_once_reported_twice() -> None:
    """Orders that still list a finished move mean that its report was lost: it is reported again only."""
    bench = Bench()
    bench.executor.accept(orders(order(MoveKind.COPY, 1)))
    async with running(bench):
        await bench.idle()
        bench.reports.sent(bench.reports.batch())
        bench.executor.accept(orders(order(MoveKind.COPY, 1), order(MoveKind.COPY, 2)))
        await bench.idle()
    assert bench.shelf.log == ["fetch 1", "changed", "fetch 2", "changed"]
    assert bench.states() == {"copy-1": ReportedState.SUCCEEDED, "copy-2": ReportedState.SUCCEEDED}


async def test_orders_already_fulfilled_succeed_without_work() -> None:
    """Copying what is held and dropping what is not changes nothing and is a success."""
    bench = Bench()
    bench.hold(1)
    bench.executor.accept(orders(order(MoveKind.COPY, 1), order(MoveKind.DROP, 2)))
    async with running(bench):
        await bench.idle()
    assert set(bench.states().values()) == {ReportedState.SUCCEEDED}
    assert bench.shelf.log == []


async def test_newer_orders_replace_what_has_not_begun() -> None:
    """The move under way is finished, the rest of the old list is forgotten."""
    bench = Bench(capacity=20)
    bench.shelf.gate = asyncio.Event()
    bench.executor.accept(orders(order(MoveKind.COPY, 1), order(MoveKind.COPY, 2)))
    async with running(bench):
        await asyncio.sleep(0.05)
        bench.executor.accept(orders(order(MoveKind.COPY, 3)))
        bench.shelf.gate.set()
        await bench.idle()
    assert [line for line in bench.shelf.log if line.startswith("fetch")] == ["fetch 1", "fetch 3"]


async def test_it_goes_by_newer_orders_once_nothing_runs_that_they_do_not_list() -> None:
    """A drop that has begun is finished although newer orders lack it. Until then the executor goes by
    neither, then by the newer ones, and each time it has that told at once."""
    bench = Bench(switch_seconds=0.2)
    bench.hold(1)
    async with running(bench):
        assert bench.executor.version is None
        first = orders(order(MoveKind.DROP, 1))
        bench.executor.accept(first)
        assert bench.executor.version == first.metadata.version
        await asyncio.sleep(0.05)
        assert bench.shelf.log == []
        second = orders(generation=2)
        bench.executor.accept(second)
        assert bench.shelf.log == ["changed"]
        assert bench.executor.version is None
        await asyncio.sleep(0.4)
        assert bench.executor.version == second.metadata.version
        assert bench.shelf.log == ["changed", "changed"]
        assert ExpertKey("m", 0, 1) in bench.holdings


async def test_a_copy_nobody_orders_any_more_is_given_up() -> None:
    """Newer orders leave it out, or try it anew: it takes no room, nothing is said of it, and the new attempt
    begins at once. One that they still list goes on."""
    bench = Bench()
    bench.shelf.gate = asyncio.Event()
    async with running(bench):
        bench.executor.accept(orders(order(MoveKind.COPY, 1)))
        await asyncio.sleep(0.05)
        bench.executor.accept(orders(order(MoveKind.COPY, 1), order(MoveKind.COPY, 2)))
        await asyncio.sleep(0.05)
        assert bench.shelf.log == ["fetch 1"]
        bench.executor.accept(orders(order(MoveKind.COPY, 1, attempt=2), order(MoveKind.COPY, 2)))
        await asyncio.sleep(0.05)
        assert bench.shelf.log == ["fetch 1", "fetch 1"]
        bench.executor.accept(orders(order(MoveKind.COPY, 2)))
        await asyncio.sleep(0.05)
        assert bench.shelf.log == ["fetch 1", "fetch 1", "fetch 2"]
        assert bench.holdings.used_bytes == 4
        bench.shelf.gate.set()
        await bench.idle()
    assert bench.states() == {"copy-2": ReportedState.SUCCEEDED}
    assert bench.holdings.keys == {ExpertKey("m", 0, 2)}


async def test_an_expert_that_cannot_be_evicted_is_still_held() -> None:
    """The storage does not let go of it: the move fails, and the expert is reported as held."""
    bench = Bench()
    bench.hold(1)
    bench.table = RoutingTable(assignment({1: [0]}, PEER))
    bench.shelf.stuck = True
    async with running(bench):
        bench.executor.accept(orders(order(MoveKind.DROP, 1)))
        await bench.idle()
    assert bench.states() == {"drop-1": ReportedState.FAILED}
    assert bench.holdings.keys == {ExpertKey("m", 0, 1)}
    assert bench.holdings.used_bytes == 4
