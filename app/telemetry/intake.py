"""A node's windows on their way to Redis: decoded, judged by what is registered, appended, accounted for."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from redis.asyncio import Redis

from app.config import Settings
from app.errors import InvalidRequest, MalformedRequest, ProblemError, Unavailable
from app.metrics import REFUSED, TALLY, TELEMETRY_WINDOWS
from app.telemetry.account import Account
from app.telemetry.checking import check
from app.telemetry.decoding import Decoded, Format, Malformed, decode
from app.telemetry.faults import Faults
from app.telemetry.framing import Framing
from app.telemetry.lanes import CommitLanes
from app.telemetry.packed import pack
from app.telemetry.registry import Registry
from app.telemetry.store import Append, Outcome

_ATTEMPTS = 5
_LARGE_BYTES = 64 << 10
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

    async def stop(self) -> None:
        await self._commit.drain()

    def knows(self, cluster_id: str, node_id: str) -> bool:
        """Whether the node was registered when last looked."""
        return self._registry.known(cluster_id, node_id) is not None

    async def require_node(self, cluster_id: str, node_id: str) -> None:
        """Raises `NotFound` where the cluster or the node is not registered."""
        await self._registry.with_node(cluster_id, node_id)

    async def take_one(self, cluster_id: str, node_id: str, body: bytes, form: Format) -> Account:
        """A body that is one window. Raises `InvalidRequest` when it cannot be taken at all."""
        account = Account()
        try:
            await self._take(cluster_id, node_id, body, form, account)
        except Malformed as error:
            raise MalformedRequest(str(error)) from None
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
        self, cluster_id: str, node_id: str, body: bytes, form: Format, account: "Account", index: int
    ) -> None:
        account.faults.at = f"/{index}"
        try:
            await self._take(cluster_id, node_id, body, form, account)
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

    async def _take(
        self, cluster_id: str, node_id: str, body: bytes, form: Format, account: "Account"
    ) -> None:
        faults = account.faults
        rejected_before = faults.count
        if len(body) > _LARGE_BYTES:
            decoded = await asyncio.to_thread(decode, body, form, faults)
        else:
            decoded = decode(body, form, faults)
        outcome = None
        if decoded is not None:
            outcome = await self._append(cluster_id, node_id, decoded, len(body) > _LARGE_BYTES, faults)
        if outcome is Outcome.ACCEPTED:
            account.accepted += 1
            TALLY.count(_ACCEPTED)
        elif outcome is Outcome.DUPLICATE:
            account.duplicate = True
            TALLY.count(_DUPLICATE)
        else:
            # However many faults tell why, it is one window that was left out.
            faults.count = rejected_before + 1
            account.rejected += 1
            TALLY.count(_REJECTED)

    async def _append(
        self, cluster_id: str, node_id: str, decoded: Decoded, large: bool, faults: Faults
    ) -> Outcome | None:
        """None when the window is refused, which `faults` explains."""
        registered = self._registry.known(cluster_id, node_id)
        if registered is None:
            registered = await self._registry.with_node(cluster_id, node_id)
        window = decoded.window
        for _ in range(_ATTEMPTS):
            found = Faults(faults.at)
            now = datetime.now(UTC)
            if large:
                packed = await asyncio.to_thread(check, decoded, node_id, registered, now, found)
            else:
                packed = check(decoded, node_id, registered, now, found)
            if packed is None and found.listed[0].code == "UNKNOWN_MODEL":
                # It may have been registered a moment ago: the script only sees windows that pass.
                newer = await self._registry.get(cluster_id, stale=registered)
                if newer.revision != registered.revision:
                    registered = newer
                    continue
            if packed is None:
                faults.take(found)
                return None
            outcome = await self._commit.append(
                Append(
                    registered.keys,
                    registered.revision,
                    node_id,
                    window.instance_uid,
                    window.sequence_number,
                    pack(packed),
                    self._settings.max_unfolded_bytes,
                )
            )
            if outcome is Outcome.STALE_REVISION:
                await self._registry.get(cluster_id, stale=registered)
                registered = await self._registry.with_node(cluster_id, node_id)
                continue
            return _explained(outcome, window.instance_uid, window.sequence_number, faults, found)
        raise Unavailable("models or nodes of the cluster keep changing", retry_after_seconds=1)


def _explained(
    outcome: Outcome, instance_uid: str, sequence_number: int, faults: Faults, found: Faults
) -> Outcome:
    if outcome is Outcome.FULL:
        REFUSED.labels("unfolded").inc()
        raise Unavailable("the cluster's worker does not keep up with its telemetry", retry_after_seconds=5)
    if outcome is Outcome.UNKNOWN_INSTANCE:
        faults.add(
            "/instance_uid",
            f"{instance_uid} is not the registered instance of this node: register it again",
            "UNKNOWN_INSTANCE",
        )
    elif outcome is Outcome.STALE_SEQUENCE_NUMBER:
        faults.add(
            "/sequence_number",
            f"is {sequence_number}, older than the numbers remembered: it cannot be told from a repeat",
            "STALE_SEQUENCE_NUMBER",
        )
    else:
        faults.take(found)
    return outcome


async def _framed(framing: Framing, piece: bytes) -> list[bytes]:
    if len(piece) > _FRAMED_INLINE_BYTES:
        return await asyncio.to_thread(lambda: list(framing.feed(piece)))
    return list(framing.feed(piece))
