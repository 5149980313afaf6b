"""Every request belongs to a trace (W3C Trace Context): the caller's if it names one, else a new one."""

import random
import re

from starlette.types import Scope

from app.http.parameters import fields_of
from app.observability.trace import TRACE

_TRACEPARENT = re.compile(rb"^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$")


def begin_trace(scope: Scope) -> tuple[bytes, bytes]:
    """Binds `trace_id` for logs and problems; gives the answer's `traceparent`: same trace, own span."""
    given = fields_of(scope).get(b"traceparent")
    trace, flags = (None, "00") if given is None else _parse(given)
    ids = f"{random.getrandbits(192):048x}"
    trace = trace or ids[16:]
    TRACE.set(trace)  # of this request's task, which ends with it
    return b"traceparent", f"00-{trace}-{ids[:16]}-{flags}".encode()


def _parse(value: bytes) -> tuple[str | None, str]:
    """Trace id and flags; a malformed header is as none, as the recommendation wants it."""
    match = _TRACEPARENT.match(value.strip())
    if match is None:
        return None, "00"
    version, trace, span, flags, rest = match.groups()
    if version == b"ff" or (version == b"00" and rest) or not trace.strip(b"0") or not span.strip(b"0"):
        return None, "00"
    return trace.decode(), flags.decode() if version == b"00" else "00"
