"""Documents served by version: entity tags, content codings, conditional requests, and how long to wait."""

import re
from collections.abc import Mapping
from functools import lru_cache

from starlette.requests import Request
from starlette.responses import Response

from app.errors import FieldError, InvalidRequest, PreconditionFailed, PreconditionRequired
from app.http.parameters import headers as headers_of
from app.http.whole import WholeAnswer
from app.storage.documents import EncodedDocument

MAX_WAIT_SECONDS = 30
REVALIDATE = b"no-cache"
"""Cache-Control of what changes: keep it, and ask each time whether it still holds."""
IMMUTABLE = b"public, max-age=31536000, immutable"
CODINGS = ("zstd", "gzip")
"""In the order of our preference, where the client has none."""

_TAG = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"\s*(?:,\s*|$)')
_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?([^\",;]*)\"?\s*(?=$|[,;])", re.IGNORECASE)


def entity_tag(version: str, coding: str | None = None) -> str:
    """A strong tag: it differs between the codings of one version, as the bytes do."""
    return f'"{version}-{coding}"' if coding else f'"{version}"'


def has_version(request: Request, version: str | None) -> bool:
    """Whether If-None-Match names this version, in any coding; `*` names whatever exists."""
    return version is not None and named_tag(request, version) is not None


def is_conditional(request: Request) -> bool:
    """Whether the client tells which version it has."""
    return headers_of(request, b"if-none-match") is not None


def require_match(request: Request, version: str | None) -> None:
    """The strong comparison of If-Match; `If-None-Match: *` instead says that there must be nothing yet.

    Raises `PreconditionRequired` when neither header is there, `PreconditionFailed` when it does not hold.
    """
    current = f"it is {entity_tag(version)} now" if version else "there is none yet"
    given = headers_of(request, b"if-match")
    if given is not None:
        wanted = given.strip()
        if version is not None and wanted == "*":
            return
        if version is not None and any(
            not weak and _version(tag) == version for weak, tag in _tags(wanted, strict=True)
        ):
            return
        raise PreconditionFailed(f"If-Match does not name the version in force: {current}")
    if (headers_of(request, b"if-none-match") or "").strip() == "*":
        if version is None:
            return
        raise PreconditionFailed(f"If-None-Match: * requires that there is none: {current}")
    raise PreconditionRequired(
        "send If-Match with the ETag of what you have read, or If-None-Match: * where there is none yet"
    )


def wait_seconds(request: Request) -> int | None:
    """N of `Prefer: wait=N` (RFC 7240), at most 30; None without one. A preference malformed is none."""
    given = headers_of(request, b"prefer")
    for match in _WAIT.finditer(given) if given else ():
        text = match.group(1).strip()
        if text.isascii() and text.isdigit():
            return min(int(text[:9]), MAX_WAIT_SECONDS)
    return None


def negotiate(request: Request, document: EncodedDocument) -> str | None:
    """The coding to answer in: the client's favourite among those there are, by q-values; None: identity."""
    if not document.gzip and not document.zstd:
        return None
    given = headers_of(request, b"accept-encoding")
    if given is None:
        return None
    quality = _qualities(given)
    other = quality.get("*", 0.0)
    best, best_quality = None, 0.0
    for coding in CODINGS:
        if getattr(document, coding) and quality.get(coding, other) > best_quality:
            best, best_quality = coding, quality.get(coding, other)
    # Identity is acceptable unless refused, but only preferred where its quality is said to be higher.
    return best if best_quality >= quality.get("identity", 0.0) else None


def respond(
    request: Request,
    document: EncodedDocument,
    *,
    cache_control: bytes = REVALIDATE,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The document in the best coding, or 304 where the client has this version."""
    tag = named_tag(request, document.version)
    if tag is not None:
        return not_modified(request, tag, cache_control=cache_control)
    return represent(request, document, cache_control=cache_control, headers=headers)


def represent(
    request: Request,
    document: EncodedDocument,
    *,
    cache_control: bytes = REVALIDATE,
    headers: Mapping[str, str] | None = None,
    status: int = 200,
) -> Response:
    """The document in the best coding, whatever the client has: the answer to a write."""
    coding = negotiate(request, document)
    body = document.json
    if coding is not None:
        body = document.zstd if coding == "zstd" else document.gzip
    fields = _fields(request, entity_tag(document.version, coding), cache_control)
    fields += [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
    if coding is not None:
        fields.append((b"content-encoding", coding.encode()))
    if headers:
        fields += [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    return WholeAnswer(status, fields, body)


def not_modified(request: Request, tag: str, *, cache_control: bytes = REVALIDATE) -> Response:
    """304 without having read the document, with the tag of the coding that the client has (`named_tag`)."""
    return WholeAnswer(304, _fields(request, f'"{tag}"', cache_control))


def _fields(request: Request, tag: str, cache_control: bytes) -> list[tuple[bytes, bytes]]:
    fields = [(b"etag", tag.encode("latin-1")), (b"cache-control", cache_control), _VARY]
    seconds = wait_seconds(request)
    if seconds is not None:
        fields.append((b"preference-applied", b"wait=%d" % seconds))
    return fields


_VARY = b"vary", b"Accept-Encoding"


def waited(request: Request) -> dict[str, str]:
    """Preference-Applied, where a wait was asked for."""
    seconds = wait_seconds(request)
    return {} if seconds is None else {"Preference-Applied": f"wait={seconds}"}


def named_tag(request: Request, version: str) -> str | None:
    """The tag in If-None-Match that stands for `version`, without quotes; None: the client has another."""
    given = headers_of(request, b"if-none-match")
    if given is None:
        return None
    wanted = given.strip()
    if wanted == "*" or wanted == f'"{version}"':
        return version
    return next((tag for _, tag in _tags(wanted) if _version(tag) == version), None)


def _version(tag: str) -> str:
    for coding in CODINGS:
        if tag.endswith(f"-{coding}"):
            return tag[: -len(coding) - 1]
    return tag


def _tags(header: str, *, strict: bool = False) -> list[tuple[bool, str]]:
    """(weak, opaque tag) of each; where it cannot be read: nothing, or with `strict` `InvalidRequest`."""
    tags: list[tuple[bool, str]] = []
    position = 0
    while position < len(header):
        match = _TAG.match(header, position)
        if match is None:
            if strict:
                detail = "expected entity tags in double quotes, or *"
                raise InvalidRequest(
                    f"If-Match: {detail}", errors=[FieldError("header:If-Match", detail, "ENTITY_TAG")]
                )
            return tags
        tags.append((match.group(1) is not None, match.group(2)))
        position = match.end()
    return tags


@lru_cache(maxsize=256)
def _qualities(header: str) -> dict[str, float]:
    qualities = {}
    for item in header.split(","):
        name, *parameters = (part.strip().lower() for part in item.split(";"))
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    quality = float(parameter[2:])
                except ValueError:
                    quality = 0.0
        if name:
            qualities[name] = quality if 0 <= quality <= 1 else 0.0
    return qualities
