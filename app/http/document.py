"""Documents fetched by clients, long-polled or not: read the version, wait if it is known, then the body."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import cast

from redis.asyncio import Redis
from starlette.requests import Request
from starlette.responses import Response

from app.errors import DamagedRecord, ProblemError
from app.http import conditional
from app.http.state import redis_of, token_of, waiters_of
from app.http.versions import Versions
from app.http.waiting import wait_until
from app.storage.documents import EncodedDocument, read_document

CACHED_BYTES = 64 << 20


class DocumentCache:
    """Documents of this process, by key and version: a version never changes its bytes."""

    def __init__(self, limit_bytes: int = CACHED_BYTES) -> None:
        self._limit = limit_bytes
        self._bytes = 0
        self._documents: OrderedDict[str, EncodedDocument] = OrderedDict()
        self._reading: dict[tuple[str, str], asyncio.Task[EncodedDocument | None]] = {}

    async def get(self, redis: Redis, key: str, version: str) -> EncodedDocument | None:
        """The document, of this version or a newer one; None when it is gone."""
        found = self.kept(key, version)
        if found is not None:
            return found
        # Thousands may wake for it at once: those who know of the same version share one reading.
        task = self._reading.get((key, version))
        if task is None:
            task = self._reading[key, version] = asyncio.create_task(self._read(redis, key))
            task.add_done_callback(lambda _: self._reading.pop((key, version), None))
        return await asyncio.shield(task)

    def kept(self, key: str, version: str) -> EncodedDocument | None:
        """The document, where it is here."""
        found = self._documents.get(key)
        if found is None or found.version != version:
            return None
        self._documents.move_to_end(key)
        return found

    async def _read(self, redis: Redis, key: str) -> EncodedDocument | None:
        document = await read_document(redis, key)
        self._forget(key)
        if document is not None and _size(document) <= self._limit // 4:
            self._documents[key] = document
            self._bytes += _size(document)
            while self._bytes > self._limit:
                self._forget(next(iter(self._documents)))
        return document

    def _forget(self, key: str) -> None:
        forgotten = self._documents.pop(key, None)
        if forgotten is not None:
            self._bytes -= _size(forgotten)


def cache_of(request: Request) -> DocumentCache:
    """`app.state.document_cache`, set when the application starts."""
    return cast(DocumentCache, request.scope["app"].state.document_cache)


def versions_of(request: Request) -> Versions:
    """`app.state.versions`, set when the application starts."""
    return cast(Versions, request.scope["app"].state.versions)


async def version_in_force(request: Request, cluster_id: str, topic: str, key: str) -> str | None:
    """The version of the document at `key`, whose changes are announced as `topic`; None where there is none.

    Redis is not asked where the version is known here and the client has it, or has none. Whoever has another
    one may have heard of a change before this process has, and must not be told of the older version again.
    """
    versions = versions_of(request)
    known = versions.known(cluster_id, topic)
    if known is not None and (
        conditional.has_version(request, known) or not conditional.is_conditional(request)
    ):
        return known
    return await versions.learn(cluster_id, topic, key)


def unchanged(request: Request, cluster_id: str, topic: str) -> Response | None:
    """304 where the client has the version that is known, and does not wait for another: what most requests
    come to, before anything is made ready for the others."""
    known = versions_of(request).known(cluster_id, topic)
    tag = None if known is None else conditional.named_tag(request, known)
    if tag is None or conditional.wait_seconds(request):
        return None
    return conditional.not_modified(request, tag)


async def await_version(
    request: Request,
    cluster_id: str,
    topic: str,
    read: Callable[[], Awaitable[str | None]],
    absent: Callable[[], Awaitable[ProblemError]],
    *,
    holder: str | None = None,
) -> str:
    """The version `read` gives: at once, or with `Prefer: wait` as soon as it is one the client has not.

    Where there is none (yet), and after waiting for it if asked to, `absent` tells what to raise; it may
    raise itself what no waiting will help against. Of one `holder` only the newest request waits.
    """
    version = await read()
    problem = await absent() if version is None else None
    seconds = conditional.wait_seconds(request)
    if seconds and (version is None or conditional.has_version(request, version)):
        waiter = waiters_of(request).waiter(cluster_id, topic, holder=holder, token=token_of(request))
        version = await wait_until(
            waiter,
            seconds,
            read,
            lambda found: found is not None and not conditional.has_version(request, found),
        )
    if version is not None:
        return version
    raise problem or await absent()


async def serve_document(
    request: Request,
    cluster_id: str,
    topic: str,
    key: str,
    absent: Callable[[], Awaitable[ProblemError]],
    *,
    version_key: Callable[[str], str] | None = None,
    holder: str | None = None,
) -> Response:
    """The document at `key`, or 304 where the client has it; see `await_version`.

    With `version_key`, `key` has only the version, and that function tells where the document of one is.
    """

    async def read() -> str | None:
        return await version_in_force(request, cluster_id, topic, key)

    def place(version: str) -> str:
        return version_key(version) if version_key else key

    cache = cache_of(request)
    known = versions_of(request).known(cluster_id, topic)
    if known is not None and not conditional.is_conditional(request):
        document = cache.kept(place(known), known)
        if document is not None:
            return conditional.represent(request, document)
    version = await await_version(request, cluster_id, topic, read, absent, holder=holder)
    tag = conditional.named_tag(request, version)
    if tag is not None:
        return conditional.not_modified(request, tag)
    document = await cache.get(redis_of(request), place(version), version)
    if document is None:
        if version_key is not None and await versions_of(request).read(key) == version:
            raise DamagedRecord(place(version), f"there is no document, and {key} names it")
        raise await absent()
    return conditional.respond(request, document)


def _size(document: EncodedDocument) -> int:
    return len(document.json) + len(document.gzip) + len(document.zstd)
