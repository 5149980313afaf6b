"""Answers in one piece: our server sends them at once, others as they send all."""

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from app.http.extensions import WHOLE, lines


class WholeAnswer(Response):
    """With its headers as they go out: to put them together from a mapping takes longer than all the rest."""

    def __init__(self, status: int, fields: list[tuple[bytes, bytes]], body: bytes = b"") -> None:
        self.status_code = status
        self.raw_headers = fields
        self.body = body
        self.background = None

    def whole(self) -> Message:
        """For servers that take it."""
        return {"type": WHOLE, "status": self.status_code, "head": lines(self.raw_headers), "body": self.body}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": list(self.raw_headers)}
        )
        await send({"type": "http.response.body", "body": self.body})


class PreparedAnswer(WholeAnswer):
    """An answer that is always the same, made once."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status_code, response.raw_headers, bytes(response.body))
        self._whole = super().whole()

    def whole(self) -> Message:
        return {**self._whole}
