"""Executing what the service orders, after checking that it can be done here.

Two rules hold whatever the orders say: an expert is loaded before it counts as held, and it is evicted only
when the routing table in use sends its calls elsewhere, or its model is no more.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

from moeplace_agent.holdings import ExpertKey, Holdings, NoRoom
from moeplace_agent.messages import MoveKind, MoveOrder, Orders
from moeplace_agent.reports import MoveReport, ReportBox, ReportedState
from moeplace_agent.routing import RoutingTable
from moeplace_agent.storage import EvictFailed, FetchFailed, Storage

logger = logging.getLogger(__name__)

_PROGRESS_INTERVAL_SECONDS = 1.0


class OrderRefused(Exception):
    """The order cannot be followed here; in words."""


class OrderExecutor:
    """Executes released moves one after another, in their order: a node takes part in one incoming copy at a
    time. Each attempt at a move is executed once, however often it is delivered."""

    def __init__(
        self,
        holdings: Holdings,
        storage: Storage,
        reports: ReportBox,
        *,
        routing: Callable[[], RoutingTable | None],
        changed: Callable[[], None] = lambda: None,
        ended: Callable[[MoveKind, bool, float], None] = lambda *_: None,
        switch_seconds: float = 10.0,
    ) -> None:
        """`routing`: the table in use. `changed`: called after what the node holds has changed, and when it
        no longer goes by a drop that was taken back. `ended`: told of every move its kind, whether it
        succeeded, and the seconds it took.
        `switch_seconds`: how long a drop waits for a table that serves its expert elsewhere."""
        self._holdings = holdings
        self._storage = storage
        self._reports = reports
        self._routing = routing
        self._changed = changed
        self._ended = ended
        self._switch_seconds = switch_seconds
        self._orders: Orders | None = None
        self._obsolete: frozenset[ExpertKey] = frozenset()
        self._begun: tuple[MoveOrder, asyncio.Task[None]] | None = None
        self._arrived = asyncio.Event()
        self._switched = asyncio.Event()
        self._done: dict[tuple[str, str], MoveReport] = {}
        self.failures = 0
        """Moves refused or failed so far."""

    @property
    def busy(self) -> bool:
        """True while there is a released move that has not been executed."""
        return self._next() is not None

    @property
    def version(self) -> str | None:
        """Of the orders it goes by; None while a move is finished that they do not list."""
        if self._orders is None or (self._begun is not None and not self._lists(self._begun[0])):
            return None
        return self._orders.metadata.version

    def _lists(self, order: MoveOrder) -> bool:
        return self._orders is not None and any(_same_attempt(order, other) for other in self._orders.moves)

    def accept(self, orders: Orders) -> None:
        """The newest orders replace all before. A copy that has begun and is not ordered any more, or is to
        be tried anew (perhaps from another source), is given up; any other move begun is finished."""
        asked = self._next()
        self._orders = orders
        self._say_if_taken_back(asked)
        if self._begun is not None:
            order, task = self._begun
            if order.kind is MoveKind.COPY and not self._lists(order):
                logger.info(
                    "copy %s of %s is given up: it is not ordered any more", order.move_id, _key_of(order)
                )
                self._begun = None
                task.cancel()
        listed = {(order.plan_id, order.move_id) for order in orders.moves}
        for order in orders.moves:
            # Listed although done: the service has not got the report, or lost it.
            report = self._done.get((order.plan_id, order.move_id))
            if report is not None and report.attempt == order.attempt:
                self._reports.put(report)
        self._done = {key: report for key, report in self._done.items() if key in listed}
        self._arrived.set()

    def _say_if_taken_back(self, order: MoveOrder | None) -> None:
        if order is not None and order.kind is MoveKind.DROP and not self._lists(order):
            self._changed()

    def discard(self, keys: Iterable[ExpertKey]) -> None:
        """Their models are no more: evicted before anything else is done, but for what an order names."""
        self._obsolete = frozenset(keys)
        self._arrived.set()

    def routes_switched(self) -> None:
        """A new routing table is in use."""
        self._switched.set()

    async def run(self) -> None:
        """Execute orders as they come, for ever."""
        while True:
            await self._evict_obsolete()
            order = self._next()
            if order is None:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            await self._begin(order)

    async def _begin(self, order: MoveOrder) -> None:
        task = asyncio.create_task(self._execute(order))
        self._begun = order, task
        try:
            await task
        except asyncio.CancelledError:
            if self._begun is not None:
                raise  # it is this node that ends, not the order
        finally:
            self._begun = None
        self._say_if_taken_back(order)

    def _next(self) -> MoveOrder | None:
        for order in self._orders.moves if self._orders else ():
            done = self._done.get((order.plan_id, order.move_id))
            if done is None or done.attempt < order.attempt:
                return order
        return None

    async def _evict_obsolete(self) -> None:
        ordered = {_key_of(order) for order in (self._orders.moves if self._orders else ())}
        for key in sorted((self._obsolete & self._holdings.keys) - ordered):
            try:
                await self._evict(key)
            except (EvictFailed, OSError) as error:
                logger.warning("evicting %s failed: %s", key, error)

    async def _execute(self, order: MoveOrder) -> None:
        assert self._orders is not None
        generation = self._orders.metadata.generation
        key = _key_of(order)
        begun = time.monotonic()
        try:
            if order.kind is MoveKind.COPY:
                digest = await self._copy(order, key, generation)
            else:
                digest = None
                await self._drop(key)
        except (OrderRefused, FetchFailed, EvictFailed, OSError) as error:
            self.failures += 1
            logger.warning("move %s (%s %s) failed: %s", order.move_id, order.kind, key, error)
            report = MoveReport.of(order, generation, ReportedState.FAILED, reason=str(error) or "no reason")
        else:
            done = order.bytes if order.kind is MoveKind.COPY else 0
            report = MoveReport.of(order, generation, ReportedState.SUCCEEDED, bytes_done=done, digest=digest)
        self._ended(order.kind, report.state is ReportedState.SUCCEEDED, time.monotonic() - begun)
        self._done[order.plan_id, order.move_id] = report
        self._reports.put(report)

    async def _copy(self, order: MoveOrder, key: ExpertKey, generation: int) -> str | None:
        if key in self._holdings:
            return None
        try:
            placed = self._holdings.reserve(key, order.bytes, order.device_id)
        except NoRoom as error:
            raise OrderRefused(str(error)) from error
        last = time.monotonic()

        def progress(done: int) -> None:
            nonlocal last
            if time.monotonic() - last >= _PROGRESS_INTERVAL_SECONDS:
                last = time.monotonic()
                self._reports.put(
                    MoveReport.of(order, generation, ReportedState.IN_PROGRESS, bytes_done=done)
                )

        try:
            digest = await self._storage.fetch(order, placed.device_id, progress)
        except BaseException:
            self._holdings.abandon(key)
            raise
        if order.expert_digest is not None and digest is not None and digest != order.expert_digest:
            await self._storage.evict(key, placed.device_id)
            self._holdings.abandon(key)
            raise FetchFailed(f"{key}: its bytes have SHA-256 {digest}, expected {order.expert_digest}")
        self._holdings.complete(key)
        self._changed()
        return digest

    async def _drop(self, key: ExpertKey) -> None:
        if key not in self._holdings:
            return
        await self._wait_until_served_elsewhere(key)
        await self._evict(key)

    async def _evict(self, key: ExpertKey) -> None:
        # Not held from before the first byte is gone; held again should it stay.
        placed = self._holdings.remove(key)
        try:
            await self._storage.evict(key, placed.device_id)
        except BaseException:
            self._holdings.reserve(key, placed.bytes, placed.device_id)
            self._holdings.complete(key)
            raise
        self._changed()

    async def _wait_until_served_elsewhere(self, key: ExpertKey) -> None:
        try:
            async with asyncio.timeout(self._switch_seconds):
                while True:
                    table = self._routing()
                    if table is not None and table.served_elsewhere(key):
                        return
                    self._switched.clear()
                    await self._switched.wait()
        except TimeoutError:
            raise OrderRefused(f"{key}: the routing table in use still serves it here") from None


def _same_attempt(one: MoveOrder, other: MoveOrder) -> bool:
    return (one.plan_id, one.move_id, one.attempt) == (other.plan_id, other.move_id, other.attempt)


def _key_of(order: MoveOrder) -> ExpertKey:
    return ExpertKey(order.model_id, order.layer, order.expert)
