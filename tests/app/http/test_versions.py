"""Reading versions costs by the turn, not by the request, and never shows what was before the asking."""

import asyncio

import pytest
from redis.asyncio import Redis

from app.errors import DamagedRecord
from app.http.document import DocumentCache
from app.http.versions import Versions
from app.storage import topics
from app.storage.documents import encode_document, queue_document

pytestmark = pytest.mark.anyio


async def write(redis: Redis, key: str, generation: int) -> str:
    document = encode_document(b"{}", uid="u", generation=generation)
    async with redis.pipeline(transaction=True) as pipe:
        queue_document(pipe, key, document)
        await pipe.execute()
    return document.version


async def calls(redis: Redis) -> int:
    return int((await redis.info("commandstats")).get("cmdstat_hmget", {}).get("calls", 0))


async def test_a_thousand_ask_together(redis: Redis) -> None:
    """A thousand requests for one document and one for another are at most four reads, all of them right."""
    one, two = await write(redis, "one", 1), await write(redis, "two", 2)
    versions = Versions(redis)
    before = await calls(redis)
    found = await asyncio.gather(*(versions.read("one") for _ in range(1000)), versions.read("two"))
    assert found == [one] * 1000 + [two]
    assert await calls(redis) - before <= 4
    assert await versions.read("none") is None


async def test_a_thousand_wake_for_one_document(redis: Redis) -> None:
    """Those who know of a version share one reading of its document, however few connections there are."""
    version = await write(redis, "k", 1)
    cache = DocumentCache()
    before = await calls(redis)
    found = await asyncio.gather(*(cache.get(redis, "k", version) for _ in range(1000)))
    assert {None if it is None else it.version for it in found} == {version}
    assert await calls(redis) - before == 1


async def test_a_read_begins_after_it_was_asked_for(redis: Redis) -> None:
    """Whoever asks once a write is made sees it, also while an earlier read is under way."""
    versions = Versions(redis)
    for generation in range(1, 30):
        earlier = [asyncio.create_task(versions.read("k")) for _ in range(3)]
        await asyncio.sleep(0)
        version = await write(redis, "k", generation)
        assert await versions.read("k") == version
        await asyncio.gather(*earlier)


async def test_faults_are_told_to_those_they_concern(redis: Redis) -> None:
    """A key of another type fails its own readers; one who leaves takes nobody along."""
    await redis.set("text", "x")
    version = await write(redis, "k", 1)
    versions = Versions(redis)
    bad, left, good = (asyncio.create_task(versions.read(key)) for key in ("text", "k", "k"))
    await asyncio.sleep(0)
    left.cancel()
    assert await good == version
    with pytest.raises(DamagedRecord, match="key text in Redis"):
        await bad


async def test_what_is_known_holds_until_it_is_announced(redis: Redis) -> None:
    """One read serves all requests until the document's own topic is announced, or its cluster is gone, or
    announcements may have been missed."""
    version = await write(redis, "k", 1)
    versions = Versions(redis)
    assert versions.known("east", "t") is None
    for cluster_id, topic, forgotten in [
        ("east", "other", False),
        ("west", "t", False),
        ("west", topics.CLUSTER, False),
        ("east", "t", True),
        ("east", topics.CLUSTER, True),
        (None, None, True),
    ]:
        assert await versions.learn("east", "t", "k") == version
        before = await calls(redis)
        assert versions.known("east", "t") == version
        versions.notified(cluster_id, topic)
        assert versions.known("east", "t") == (None if forgotten else version)
        assert await calls(redis) == before


async def test_an_answer_from_before_an_announcement_is_not_kept(redis: Redis) -> None:
    await write(redis, "k", 1)
    versions = Versions(redis)
    reading = asyncio.create_task(versions.learn("east", "t", "k"))
    await asyncio.sleep(0)
    versions.notified("east", "t")
    assert await reading is not None
    assert versions.known("east", "t") is None


async def test_nothing_is_known_for_long(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the announcement was lost, a version is read again soon; what is known is bounded."""
    monkeypatch.setattr("app.http.versions.TRUST_SECONDS", 0.2)
    monkeypatch.setattr("app.http.versions.REMEMBERED", 3)
    version = await write(redis, "k", 1)
    versions = Versions(redis)
    await versions.learn("east", "t", "k")
    assert versions.known("east", "t") == version
    await asyncio.sleep(0.25)
    assert versions.known("east", "t") is None
    for number in range(5):
        await versions.learn("east", f"{number}", "k")
    assert [versions.known("east", f"{number}") for number in range(5)] == [None, None, *[version] * 3]
    assert await versions.learn("east", "none", "none") is None
    assert versions.known("east", "none") is None
