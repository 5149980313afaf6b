"""Documents encoded once, when they change, and served as bytes ever after.

A document is stored as a hash with its JSON in three content codings, so that no request compresses a large
body. Its version is `<uid>.<generation>.<digest>`: the cluster's uid (changes when the cluster was created
anew), the placement generation it belongs to, and the digest of its JSON.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import zstandard
from isal import igzip
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

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
    values = cast(
        "list[bytes | None]", await redis.hmget(key, ["json", "gzip", "zstd", "uid", "generation", "digest"])
    )
    body, gzip, zstd, uid, generation, digest = values
    if body is None or gzip is None or zstd is None or uid is None or generation is None or digest is None:
        return None
    return EncodedDocument(body, gzip, zstd, uid.decode(), int(generation), digest.decode())


async def read_version(redis: Redis, key: str) -> str | None:
    """Only the version: what a conditional request or a long poll compares."""
    return version_of(cast("list[bytes | None]", await redis.hmget(key, ["uid", "generation", "digest"])))


def version_of(fields: Sequence[bytes | None]) -> str | None:
    """From the stored uid, generation and digest; None where one is missing."""
    uid, generation, digest = fields
    if uid is None or generation is None or digest is None:
        return None
    return f"{uid.decode()}.{int(generation)}.{digest.decode()}"
