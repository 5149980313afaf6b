"""The trace that the present request belongs to, for what is logged and answered meanwhile."""

from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any

TRACE: ContextVar[str | None] = ContextVar("moeplace_trace_id", default=None)
"""Set by `app.http.trace` for the task of each request."""


def trace_id() -> str | None:
    """Of the request being answered; None outside of one."""
    return TRACE.get()


def add_trace_id(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A processor of structlog: what is logged while a request is answered tells its trace."""
    trace = TRACE.get()
    if trace is not None:
        event.setdefault("trace_id", trace)
    return event
