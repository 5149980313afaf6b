"""Documents encoded once, when they change, and served as bytes ever after.

A document is stored as a hash with its JSON in three content codings, so that no request compresses a large
body. Its version is `<uid>.<generation>.<digest>`: the cluster's uid (changes when the cluster was created
anew), the placement generation it belongs to, and the digest of its JSON.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import zstandard
from isal import igzip
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from app.errors import DamagedRecord

_WORD = re.compile(rb"[A-Za-z0-9_:-]{1,128}")
_NUMBER = re.compile(rb"[0-9]{1,18}")
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"

IDENTITY_LIMIT = 1024
"""Bodies up to this many bytes are not worth compressing."""


@dataclass(frozen=True, slots=True)
class EncodedDocument:
    """One JSON document with its codings; `gzip` and `zstd` are empty where compression is not worth it."""

    json: bytes
    gzip: bytes
    zstd: bytes
    uid: str
    generation: int
    digest: str

    @property
    def version(self) -> str:
        """The opaque part of the entity tag, without quotes and without a coding's suffix."""
        return f"{self.uid}.{self.generation}.{self.digest}"


def encode_document(body: bytes, *, uid: str, generation: int, digest: str | None = None) -> EncodedDocument:
    """Compress `body`; call it off the event loop for large bodies (about 10 ms per 2 MB).

    `digest` names the state the document describes where the body holds more than that state (a creation
    time, say); by default it is that of the body.
    """
    small = len(body) <= IDENTITY_LIMIT
    return EncodedDocument(
        json=body,
        gzip=b"" if small else igzip.compress(body, compresslevel=1),
        zstd=b"" if small else zstandard.ZstdCompressor(level=3).compress(body),
        uid=uid,
        generation=generation,
        digest=digest or hashlib.sha256(body).hexdigest()[:16],
    )


def queue_document(pipeline: Pipeline, key: str, document: EncodedDocument) -> None:
    """Queue the write of a whole document; it replaces what the key held."""
    pipeline.hset(
        key,
        mapping={
            "json": document.json,
            "gzip": document.gzip,
            "zstd": document.zstd,
            "uid": document.uid,
            "generation": document.generation,
            "digest": document.digest,
        },
    )


async def read_document(redis: Redis, key: str) -> EncodedDocument | None:
    """None where there is none. Raises `DamagedRecord`, which names `key`, where it is no document."""
    values = cast(
        "list[bytes | None]", await redis.hmget(key, ["json", "gzip", "zstd", "uid", "generation", "digest"])
    )
    body, gzip, zstd, *parts = values
    version = _version(parts, key)
    if version is None and body is None:
        return None
    if version is None or body is None or gzip is None or zstd is None:
        raise DamagedRecord(key, "a part of the document is missing")
    for name, given, begins in (
        ("json", body, b"{"),
        ("gzip", gzip, b"\x1f\x8b"),
        ("zstd", zstd, _ZSTD_MAGIC),
    ):
        if given[: len(begins)] != begins and (given or name == "json"):
            raise DamagedRecord(key, f"{name}: expected it to begin with {begins!r}")
    uid, generation, digest = version
    return EncodedDocument(body, gzip, zstd, uid, generation, digest)


async def read_version(redis: Redis, key: str) -> str | None:
    """Only the version: what a conditional request or a long poll compares. Raises `DamagedRecord`."""
    return version_of(
        cast("list[bytes | None]", await redis.hmget(key, ["uid", "generation", "digest"])), key
    )


def generation_of(stored: bytes, key: str) -> int:
    """The number of the generation that `key` has. Raises `DamagedRecord`, which names it, for other text."""
    if not _NUMBER.fullmatch(stored):
        raise DamagedRecord(key, f"generation is {stored[:40]!r}, expected {_NUMBER.pattern.decode()}")
    return int(stored)


def version_of(fields: Sequence[bytes | None], key: str) -> str | None:
    """From the uid, generation and digest that `key` has; None where it has none of them. Raises
    `DamagedRecord`, which names `key`, where they make no version."""
    version = _version(fields, key)
    return None if version is None else "{}.{}.{}".format(*version)


def _version(fields: Sequence[bytes | None], key: str) -> tuple[str, int, str] | None:
    uid, generation, digest = fields
    if uid is None and generation is None and digest is None:
        return None
    for name, value, form in (
        ("uid", uid, _WORD),
        ("generation", generation, _NUMBER),
        ("digest", digest, _WORD),
    ):
        if value is None or not form.fullmatch(value):
            shown = "missing" if value is None else repr(value[:40])
            raise DamagedRecord(key, f"{name} is {shown}, expected {form.pattern.decode()}")
    assert uid is not None
    assert generation is not None
    assert digest is not None
    return uid.decode(), int(generation), digest.decode()
