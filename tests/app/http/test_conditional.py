"""Entity tags, content codings, conditional requests and preferences."""

import gzip
from collections.abc import Mapping

import pytest
import zstandard
from starlette.requests import Request

from app.errors import InvalidRequest, PreconditionFailed, PreconditionRequired
from app.http import conditional
from app.storage.documents import encode_document

BODY = b'{"text": "' + b"x" * 5000 + b'"}'
DOCUMENT = encode_document(BODY, uid="u", generation=3, digest="d")
SMALL = encode_document(b"{}", uid="u", generation=3)


def request(headers: Mapping[str, str]) -> Request:
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "GET", "path": "/", "headers": raw})


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        (None, None),
        ("", None),
        ("identity", None),
        ("gzip", "gzip"),
        ("zstd, gzip", "zstd"),
        ("gzip;q=1.0, zstd;q=0.5", "gzip"),
        ("gzip;q=0, zstd;q=0", None),
        ("*", "zstd"),
        ("*;q=0.1, gzip;q=0.5", "gzip"),
        ("gzip;q=0.2, identity;q=0.9", None),
        ("br, deflate", None),
        ("gzip;q=nonsense", None),
        ("GZIP", "gzip"),
    ],
)
def test_the_coding_is_the_clients_favourite(accepted: str | None, coding: str | None) -> None:
    """By q-values; of equals zstd. The answer is the document in that coding, under a tag of its own."""
    asked = request({} if accepted is None else {"Accept-Encoding": accepted})
    response = conditional.respond(asked, DOCUMENT)
    assert response.headers.get("content-encoding") == coding
    assert response.headers["etag"] == (f'"u.3.d-{coding}"' if coding else '"u.3.d"')
    assert response.headers["vary"] == "Accept-Encoding"
    body = bytes(response.body)
    if coding == "gzip":
        body = gzip.decompress(body)
    elif coding == "zstd":
        body = zstandard.ZstdDecompressor().decompress(body)
    assert body == BODY


def test_small_documents_are_not_coded() -> None:
    """Nothing to gain: the same tag for everybody."""
    response = conditional.respond(request({"Accept-Encoding": "gzip, zstd"}), SMALL)
    assert "content-encoding" not in response.headers
    assert response.headers["etag"] == f'"{SMALL.version}"'


@pytest.mark.parametrize(
    ("named", "status"),
    [
        ('"u.3.d"', 304),
        ('"u.3.d-gzip"', 304),
        ('W/"u.3.d-zstd"', 304),
        ('"a", W/"b",  "u.3.d"', 304),
        ("*", 304),
        ('"u.2.d"', 200),
        ('"u.3.d-br"', 200),
        ("u.3.d", 200),
        ("", 200),
    ],
)
def test_if_none_match_knows_every_coding_of_a_version(named: str, status: int) -> None:
    """The weak comparison, whatever coding the client has; malformed tags name nothing."""
    response = conditional.respond(request({"If-None-Match": named}), DOCUMENT)
    assert response.status_code == status
    if status == 304:
        assert response.body == b""
        assert conditional._version(response.headers["etag"].strip('"')) == "u.3.d"


@pytest.mark.parametrize(
    ("headers", "version", "error"),
    [
        ({}, "u.3.d", PreconditionRequired),
        ({}, None, PreconditionRequired),
        ({"If-Match": '"u.3.d"'}, "u.3.d", None),
        ({"If-Match": '"u.3.d-gzip"'}, "u.3.d", None),
        ({"If-Match": "*"}, "u.3.d", None),
        ({"If-Match": "*"}, None, PreconditionFailed),
        ({"If-Match": '"u.2.d"'}, "u.3.d", PreconditionFailed),
        ({"If-Match": 'W/"u.3.d"'}, "u.3.d", PreconditionFailed),
        ({"If-Match": '"u.3.d"'}, None, PreconditionFailed),
        ({"If-Match": "u.3.d"}, "u.3.d", InvalidRequest),
        ({"If-None-Match": "*"}, None, None),
        ({"If-None-Match": "*"}, "u.3.d", PreconditionFailed),
        ({"If-None-Match": '"u.2.d"'}, "u.3.d", PreconditionRequired),
    ],
)
def test_writes_name_what_they_replace(
    headers: dict[str, str], version: str | None, error: type[Exception] | None
) -> None:
    """If-Match compares strongly; If-None-Match: * wants that there is nothing; one of them is needed."""
    if error is None:
        conditional.require_match(request(headers), version)
    else:
        with pytest.raises(error):
            conditional.require_match(request(headers), version)


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        (None, None),
        ("wait=5", 5),
        ("respond-async, wait=10", 10),
        ("wait=10; foo=bar", 10),
        ('wait="7"', 7),
        ("Wait = 3", 3),
        ("wait=31", 30),
        ("wait=99999999999999999999", 30),
        ("wait=0", 0),
        ("wait=-1", None),
        ("wait=1.5", None),
        ("wait=", None),
        ("await=5", None),
    ],
)
def test_preferred_wait(prefer: str | None, seconds: int | None) -> None:
    """At most 30 s; a preference that cannot be read is none, as RFC 7240 wants it; told when applied."""
    asked = request({} if prefer is None else {"Prefer": prefer})
    assert conditional.wait_seconds(asked) == seconds
    applied = conditional.respond(asked, SMALL).headers.get("preference-applied")
    assert applied == (None if seconds is None else f"wait={seconds}")
