"""HEAD is answered wherever GET is: the same head, and no body."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadMiddleware:
    """Around HEAD alone: routes see a GET, logs and metrics what was asked for."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {
                    "type": "http.response.body",
                    "body": b"",
                    "more_body": message.get("more_body", False),
                }
            await send(message)

        # No answer as a whole, which would have a body.
        await self._app({**scope, "method": "GET", "extensions": {}}, receive, send_head)
