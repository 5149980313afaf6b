"""A node's windows on their way to Redis: decoded, judged by what is registered, appended, accounted for."""

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

import msgspec
from redis.asyncio import Redis

from app.config import Settings
from app.errors import BodyTooLarge, InvalidRequest, MalformedRequest, ProblemError, Unavailable
from app.observability.metrics import REFUSED, TALLY, TELEMETRY_WINDOWS
from app.storage.clock import server_now
from app.telemetry.account import Account
from app.telemetry.checking import check
from app.telemetry.decoding import Format, Malformed, decode
from app.telemetry.faults import Faults
from app.telemetry.framing import MAX_WINDOW_BYTES, Framing, Values, has_several
from app.telemetry.lanes import CommitLanes
from app.telemetry.packed import pack
from app.telemetry.registry import Registered, Registry
from app.telemetry.renewals import Renewals
from app.telemetry.store import Append, Outcome

_ATTEMPTS = 5
_INLINE_BYTES = {Format.JSON: 64 << 10, Format.MSGPACK: 256 << 10}
"""Windows up to this are decoded and judged on the loop, in about a millisecond: threads would get in each
other's way. Larger ones in MessagePack are packed, or refused at once."""
_FRAMED_INLINE_BYTES = 16 << 10

_ACCEPTED, _DUPLICATE, _REJECTED = map(TELEMETRY_WINDOWS.labels, ("accepted", "duplicate", "rejected"))

MAX_REJECTED = 1000
"""Windows of one stream that cannot be taken before the rest of it isn't read."""


class Intake:
    """Telemetry of one API process."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._settings = settings
        self._registry = Registry(redis)
        self._commit = CommitLanes(redis)
        self._renewals = Renewals(settings.node_lease_seconds)

    async def stop(self) -> None:
        await self._commit.drain()

    def knows(self, cluster_id: str, node_id: str) -> bool:
        """Whether the node was registered when last looked."""
        return self._registry.known(cluster_id, node_id) is not None

    async def require_node(self, cluster_id: str, node_id: str) -> None:
        """Raises `NotFound` where the cluster or the node is not registered."""
        await self._registry.with_node(cluster_id, node_id)

    async def take_whole(self, cluster_id: str, node_id: str, body: bytes, form: Format) -> Account:
        """A body that is one window, or several in MessagePack. Raises `InvalidRequest` when one cannot be
        taken at all."""
        account = Account()
        try:
            if len(body) > MAX_WINDOW_BYTES:
                raise BodyTooLarge(f"a window is larger than {MAX_WINDOW_BYTES} bytes")
            judged = await self._judge(cluster_id, node_id, body, form, account.faults)
        except (Malformed, BodyTooLarge) as error:
            if form is Format.MSGPACK and has_several(body):
                return await self.take_stream(cluster_id, node_id, _at_once(body), Values(), form)
            raise MalformedRequest(str(error)) if isinstance(error, Malformed) else error from None
        # What waits for Redis is the packed window alone: the memory of a body serves the next one.
        del body
        await self._take(cluster_id, judged, account, 0)
        if account.accepted == 0 and not account.duplicate:
            raise InvalidRequest(account.faults.summary(), errors=account.faults.listed)
        return account

    async def take_stream(
        self, cluster_id: str, node_id: str, pieces: AsyncIterator[bytes], framing: Framing, form: Format
    ) -> Account:
        """Windows one after another, each in Redis before the next is looked at.

        What was accepted stays accepted when the stream breaks; sending all of it again counts it once.
        """
        account = Account()
        index = 0
        try:
            async for piece in pieces:
                for body in await _framed(framing, piece):
                    await self._take_part(cluster_id, node_id, body, form, account, index)
                    index += 1
            for body in framing.finish():
                await self._take_part(cluster_id, node_id, body, form, account, index)
                index += 1
        except Malformed as error:
            # The end of this value is unknown, and with it the beginning of any other.
            if index == 0:
                raise MalformedRequest(str(error)) from None
            account.faults.at = f"/{index}"
            account.faults.add("", str(error), "MALFORMED")
        except ProblemError as error:
            if account.accepted:
                error.detail += f"; {account.accepted} windows before it were accepted"
            raise
        return account

    async def _take_part(
        self, cluster_id: str, node_id: str, body: bytes, form: Format, account: Account, index: int
    ) -> None:
        account.faults.at = f"/{index}"
        try:
            before = account.faults.count
            judged = await self._judge(cluster_id, node_id, body, form, account.faults)
            await self._take(cluster_id, judged, account, before)
        except Malformed as error:
            account.faults.add("", str(error), "MALFORMED")
            account.rejected += 1
            TALLY.count(_REJECTED)
        if account.rejected > MAX_REJECTED:
            raise InvalidRequest(
                f"more than {MAX_REJECTED} windows of the stream cannot be taken, the rest was not read",
                errors=account.faults.listed,
            )
        # A refused window waits for nothing: others must get their turn in between all the same.
        await asyncio.sleep(0)

    async def _judge(
        self, cluster_id: str, node_id: str, body: bytes, form: Format, faults: Faults
    ) -> "_Judged | None":
        """None when the window is refused, which `faults` explains. Raises `Malformed`."""
        large = len(body) > _INLINE_BYTES[form]
        decoded = await asyncio.to_thread(decode, body, form, faults) if large else decode(body, form, faults)
        if decoded is None:
            return None
        registered = self._registry.known(cluster_id, node_id)
        if registered is None:
            registered = await self._registry.with_node(cluster_id, node_id)
        model_id = decoded.window.model_id
        if model_id not in registered.models:
            # It may have been registered a moment ago: Redis is only asked about windows that pass.
            registered = await self._registry.get(cluster_id, stale=registered)
        found = Faults(faults.at)
        now = server_now()
        if large:
            packed = await asyncio.to_thread(check, decoded, node_id, registered, now, found)
        else:
            packed = check(decoded, node_id, registered, now, found)
        if packed is None:
            faults.take(found)
            return None
        append = Append(
            registered.keys,
            registered.revision,
            node_id,
            decoded.window.instance_uid,
            packed.sequence_number,
            pack(packed),
            self._settings.max_unfolded_bytes,
            self._renewals.due(
                registered.keys,
                node_id,
                decoded.window.instance_uid,
                (decoded.window.window.end_at - now).total_seconds(),
            ),
        )
        return _Judged(append, registered, model_id, found)

    async def _take(
        self, cluster_id: str, judged: "_Judged | None", account: Account, faults_before: int
    ) -> None:
        faults = account.faults
        outcome = None if judged is None else await self._store(cluster_id, judged, faults)
        if outcome is Outcome.ACCEPTED:
            account.accepted += 1
            TALLY.count(_ACCEPTED)
        elif outcome is Outcome.DUPLICATE:
            account.duplicate = True
            TALLY.count(_DUPLICATE)
        else:
            # However many faults tell why, it is one window that was left out.
            faults.count = faults_before + 1
            account.rejected += 1
            TALLY.count(_REJECTED)

    async def _store(self, cluster_id: str, judged: "_Judged", faults: Faults) -> Outcome:
        append, registered = judged.append, judged.registered
        for _ in range(_ATTEMPTS):
            outcome = await self._commit.append(append)
            if outcome is not Outcome.STALE_REVISION:
                return _explained(outcome, append, faults, judged.found)
            await self._registry.get(cluster_id, stale=registered)
            registered = await self._registry.with_node(cluster_id, append.node_id)
            if registered.shape_digest(judged.model_id) != judged.registered.shape_digest(judged.model_id):
                break
            append = msgspec.structs.replace(append, revision=registered.revision)
        raise Unavailable("models or nodes of the cluster have just changed", retry_after_seconds=1)


class _Judged(NamedTuple):
    """A window that may be stored, as long as its model and its node are what they were."""

    append: Append
    registered: Registered
    model_id: str
    found: Faults


def _explained(outcome: Outcome, append: Append, faults: Faults, found: Faults) -> Outcome:
    if outcome is Outcome.FULL:
        REFUSED.labels("unfolded").inc()
        raise Unavailable("the cluster's worker does not keep up with its telemetry", retry_after_seconds=5)
    if outcome is Outcome.UNKNOWN_INSTANCE:
        faults.add(
            "/instance_uid",
            f"{append.instance_uid} is not the registered instance of this node: register it again",
            "UNKNOWN_INSTANCE",
        )
    elif outcome is Outcome.STALE_SEQUENCE_NUMBER:
        faults.add(
            "/sequence_number",
            f"is {append.sequence_number}, older than those remembered, so it may be a repeat",
            "STALE_SEQUENCE_NUMBER",
        )
    else:
        faults.take(found)
    return outcome


async def _framed(framing: Framing, piece: bytes) -> list[bytes]:
    if len(piece) > _FRAMED_INLINE_BYTES:
        return await asyncio.to_thread(lambda: list(framing.feed(piece)))
    return list(framing.feed(piece))


async def _at_once(body: bytes) -> AsyncIterator[bytes]:
    yield body
