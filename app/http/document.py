"""Documents fetched by clients, long-polled or not: read the version, wait if it is known, then the body."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable

from redis.asyncio import Redis
from starlette.requests import Request
from starlette.responses import Response

from app.http import conditional
from app.http.state import redis_of, waiters_of
from app.http.waiting import wait_until
from app.storage.documents import EncodedDocument, read_document, read_version

CACHED_BYTES = 64 << 20


class DocumentCache:
    """Documents of this process, by key and version: a version never changes its bytes."""

    def __init__(self, limit_bytes: int = CACHED_BYTES) -> None:
        self._limit = limit_bytes
        self._bytes = 0
        self._documents: OrderedDict[str, EncodedDocument] = OrderedDict()

    async def get(self, redis: Redis, key: str, version: str) -> EncodedDocument | None:
        """The document, of this version or a newer one; None when it is gone."""
        found = self._documents.get(key)
        if found is not None and found.version == version:
            self._documents.move_to_end(key)
            return found
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
    """This application's; made on first use."""
    state = request.app.state
    cache: DocumentCache | None = getattr(state, "document_cache", None)
    if cache is None:
        cache = state.document_cache = DocumentCache()
    return cache


async def await_change(
    request: Request,
    cluster_id: str,
    topic: str,
    read: Callable[[], Awaitable[str | None]],
    *,
    holder: str | None = None,
) -> str | None:
    """The version `read` gives: at once, or with `Prefer: wait` once it is one the client does not have.

    A client that names no version waits only for something to exist.
    """
    seconds = conditional.wait_seconds(request)
    if not seconds:
        return await read()

    def news(version: str | None) -> bool:
        return version is not None and not conditional.has_version(request, version)

    waiter = waiters_of(request).waiter(cluster_id, topic, holder=holder)
    return await wait_until(waiter, seconds, read, news)


async def serve_document(
    request: Request,
    cluster_id: str,
    topic: str,
    key: str,
    *,
    holder: str | None = None,
    cache_control: str = conditional.REVALIDATE,
) -> Response | None:
    """The document at `key`, 304 where the client has it, None where there is none."""
    redis = redis_of(request)

    async def read() -> str | None:
        return await read_version(redis, key)

    version = await await_change(request, cluster_id, topic, read, holder=holder)
    if version is None:
        return None
    if conditional.has_version(request, version):
        return conditional.not_modified(request, version)
    document = await cache_of(request).get(redis, key, version)
    if document is None:
        return None
    return conditional.respond(request, document, cache_control=cache_control)


def _size(document: EncodedDocument) -> int:
    return len(document.json) + len(document.gzip) + len(document.zstd)
