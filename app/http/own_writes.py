"""Whoever has written reads what was written, at this process at once: announcements may be a moment late."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http.durable import WRITES


class OwnWritesMiddleware:
    """Forgets the versions known of a cluster before a write to it is answered."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in WRITES:
            await self._app(scope, receive, send)
            return

        async def send_behind(message: Message) -> None:
            cluster_id = scope.get("path_params", {}).get("cluster_id")
            if message["type"] == "http.response.start" and cluster_id is not None:
                scope["app"].state.versions.forget(cluster_id)
            await send(message)

        await self._app(scope, receive, send_behind)
