"""Problems a client can be told about (RFC 9457). Each class carries its status; nothing else decides one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class FieldError:
    """One fault and its place: a JSON pointer into the body, `query:name`, `header:Name`, `path:name`."""

    pointer: str
    detail: str
    code: str


class ProblemError(Exception):
    """Answered as application/problem+json; `type` is /problems/<slug>."""

    status: ClassVar[int] = 500
    slug: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "The service failed"

    def __init__(
        self,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})


class MalformedRequest(ProblemError):
    status, slug, title = 400, "malformed-request", "The request cannot be parsed"


class Unauthenticated(ProblemError):
    """Whoever asks did not say who they are, or it is not true. `reason` is an error of RFC 6750."""

    status, slug, title = 401, "unauthenticated", "The request needs a valid token"

    def __init__(self, detail: str, *, reason: str | None = None) -> None:
        challenge = 'Bearer realm="moeplace"'
        if reason is not None:
            challenge += f', error="{reason}"'
        super().__init__(detail, headers={"WWW-Authenticate": challenge})


class Forbidden(ProblemError):
    """The token is valid and not for this."""

    status, slug, title = 403, "forbidden", "The token does not allow this"

    def __init__(self, detail: str, *, errors: Sequence[FieldError] = ()) -> None:
        challenge = 'Bearer realm="moeplace", error="insufficient_scope"'
        super().__init__(detail, errors=errors, headers={"WWW-Authenticate": challenge})


class ForeignSite(ProblemError):
    """A page of another site asks for a change that needs no token here."""

    status, slug, title = 403, "foreign-site", "The request comes from a page of another site"


class NotFound(ProblemError):
    status, slug, title = 404, "not-found", "Resource not found"


class MethodNotAllowed(ProblemError):
    status, slug, title = 405, "method-not-allowed", "The resource does not support this method"


class RequestTimedOut(ProblemError):
    status, slug, title = 408, "request-timed-out", "The body arrived too slowly"


class Conflict(ProblemError):
    status, slug, title = 409, "conflict", "The state of the resource does not allow this"


class Gone(ProblemError):
    status, slug, title = 410, "gone", "The resource was pruned"


class PreconditionFailed(ProblemError):
    status, slug, title = 412, "precondition-failed", "The resource has changed meanwhile"


class BodyTooLarge(ProblemError):
    status, slug, title = 413, "body-too-large", "The body is too large"


class UnsupportedMediaType(ProblemError):
    status, slug, title = 415, "unsupported-media-type", "The body's type or coding is not understood"


class Misdirected(ProblemError):
    status, slug, title = 421, "misdirected-request", "The request is for another host"


class InvalidRequest(ProblemError):
    status, slug, title = 422, "invalid-request", "The request can be parsed but is not valid"


class PreconditionRequired(ProblemError):
    status, slug, title = 428, "precondition-required", "The request needs If-Match"


class _RetryLater(ProblemError):
    def __init__(self, detail: str, *, retry_after_seconds: int, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(detail, errors=errors, headers={"Retry-After": str(max(1, retry_after_seconds))})


class NodeTaken(_RetryLater):
    status, slug, title = 409, "node-taken", "Another agent uses this node id"


class TooManyRequests(_RetryLater):
    status, slug, title = 429, "too-many-requests", "Too many requests are waiting"


class RateLimited(_RetryLater):
    status, slug, title = 429, "rate-limited", "Too many requests"


class Unavailable(_RetryLater):
    status, slug, title = 503, "unavailable", "The service cannot answer now"


class DamagedRecord(_RetryLater):
    """The record in a key of Redis cannot be read: an operator has to mend it. Others are not affected."""

    status, slug, title = 503, "damaged-record", "A stored record cannot be read"

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"key {key} in Redis is damaged: {problem}", retry_after_seconds=30)
        self.key = key
