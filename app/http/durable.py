"""With `durable`, a write is answered once the server has it on disk."""

from redis.exceptions import RedisError
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import Unavailable
from app.http.extensions import BEGINS
from app.http.problem import respond
from app.storage.durable import DiskSync, NotOnDisk
from app.storage.keys import EVERYWHERE, INDEX_DISK_MARK, ClusterKeys

WRITES = frozenset({"PUT", "POST", "PATCH", "DELETE"})


class DurableMiddleware:
    """Around writes alone: holds the answer to one that succeeded back until the disk has it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        disk: DiskSync = scope["app"].state.disk
        failed = False

        async def send_once_on_disk(message: Message) -> None:
            nonlocal failed
            if message["type"] in BEGINS and 200 <= message["status"] < 300:
                try:
                    await disk.wait(*_marks(scope, message["status"]))
                except (NotOnDisk, RedisError, OSError, TimeoutError):
                    failed = True
                    problem = Unavailable(
                        "the write was made, but the server did not confirm in time that it is on disk; "
                        "repeat the request",
                        retry_after_seconds=1,
                    )
                    await respond(Request(scope), problem)(scope, receive, send)
            if not failed:
                await send(message)

        await self._app(scope, receive, send_once_on_disk)


def _marks(scope: Scope, status: int) -> list[str]:
    """Of the servers written to: the cluster's own, and that of the index where a cluster came or went."""
    marks = [ClusterKeys(scope["path_params"].get("cluster_id", EVERYWHERE)).disk_mark]
    return marks if status == 200 else [*marks, INDEX_DISK_MARK]
