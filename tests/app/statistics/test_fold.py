"""Folding on a real server: once and only once, whatever happens in between."""

import random
from collections.abc import Sequence
from typing import Any, cast

import msgspec
import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from app.clusters.schemas import ClusterSettings
from app.statistics import fold as fold_module
from app.statistics import fold_batch
from app.statistics.fold import FoldMoved, TelemetryFold
from app.statistics.statistics import Bucket, Layout, bucket_us
from app.storage.fenced import fenced
from app.storage.lease import Lease, LeaseLost, acquire
from app.telemetry.packed import VERSION, PackedRoutes, PackedWindow, pack, unpack
from tests.app.telemetry.cluster import KEYS, model, packed

pytestmark = pytest.mark.anyio

MODELS = {"moe": model(), "other": model("other", {0: 4}, "d2")}
NODES = {"n1", "n2"}
SETTINGS = ClusterSettings(statistics_window_seconds=1200.0)
START = 1_800_000_000_000_000


def make(
    rng: random.Random, *, node_id: str = "n1", model_id: str = "moe", at: float = 0, **changes: Any
) -> PackedWindow:
    end = START + round(at * 1e6)
    shape = MODELS[model_id]
    counts = packed([rng.randrange(1000) for b in shape.blocks for _ in range(b.experts)], "<u4")
    first = shape.blocks[0]
    routes = [
        PackedRoutes(
            first.layer,
            2,
            packed([e for _ in range(20) for e in rng.sample(range(first.experts), 2)], "<u2"),
            packed([rng.random() for _ in range(20)], "<f4"),
        )
    ]
    fields: dict[str, Any] = {"model_digest": shape.digest, **changes}
    return PackedWindow(
        VERSION, node_id, model_id, fields["model_digest"], 1, end - 10_000_000, end, rng.randrange(500),
        None, 4, memoryview(counts), None, routes, None, None,
    )  # fmt: skip


def unfit(
    layers: tuple[int, ...] | None,
    counts: bytes,
    routes: Sequence[PackedRoutes] = (),
    *,
    experts: bytes | None = None,
) -> bytes:
    """A window of the bucket that `make` gives, which its model has no room for."""
    return pack(
        PackedWindow(
            VERSION, "n1", "moe", "d1", 1, START - 10, START, 1, layers, 1, memoryview(counts), experts,
            list(routes), None, None,
        )
    )  # fmt: skip


async def append(redis: Redis, *windows: PackedWindow | bytes) -> list[bytes]:
    """Into the stream, as the API's script does it."""
    ids: list[bytes] = []
    for window in windows:
        body = window if isinstance(window, bytes) else pack(window)
        ids.append(cast(bytes, await redis.xadd(KEYS.telemetry, {"w": body})))
        await redis.incrby(KEYS.telemetry_bytes, len(body))
    return ids


async def lease_of(redis: Redis, worker: str = "w1") -> Lease:
    lease = await acquire(redis, KEYS, worker, 30)
    assert lease is not None
    return lease


async def started(redis: Redis, worker: str = "w1") -> TelemetryFold:
    return TelemetryFold(redis, KEYS, await lease_of(redis, worker))


async def fold_all(fold: TelemetryFold, settings: ClusterSettings = SETTINGS) -> int:
    """Until nothing waits; the number of windows folded."""
    folded = 0
    while True:
        outcome = await fold.fold(MODELS, NODES, settings)
        folded += outcome.windows
        if not outcome.more:
            return folded


def naive(
    ids: list[bytes], windows: list[PackedWindow], newest: float
) -> dict[tuple[str, str], list[Bucket]]:
    """All windows at once: bucket by bucket, without those that are too old."""
    span = bucket_us(SETTINGS)
    parts: dict[tuple[str, str, int], list[tuple[PackedWindow, int]]] = {}
    for entry_id, window in zip(ids, windows, strict=True):
        seeded = (window, fold_batch.seed_of(entry_id))
        parts.setdefault((window.node_id, window.model_id, window.end_us // span * span), []).append(seeded)
    found: dict[tuple[str, str], list[Bucket]] = {}
    for (node_id, model_id, _), several in sorted(parts.items()):
        bucket = Bucket.of(several, Layout.of(MODELS[model_id]), span)[0].trimmed()
        if bucket.newest_us > START + newest * 1e6 - 1200e6:
            found.setdefault((node_id, model_id), []).append(bucket)
    return found


def plain(buckets: dict[tuple[str, str], list[Bucket]]) -> dict[tuple[str, str], list[Any]]:
    return {
        name: sorted(
            (
                b.start_us, b.newest_us, b.windows, b.tokens, b.duration_us, b.counts.tolist(),
                b.coverage.observed_us, b.routes.priority.tolist(), b.routes.experts.tolist(),
                b.routes.threshold.tolist(),
            )
            for b in several
        )
        for name, several in buckets.items()
    }  # fmt: skip


async def total(redis: Redis, name: str) -> int:
    return int(cast("bytes | None", await redis.hget(KEYS.folded, name)) or 0)


def held(fold: TelemetryFold) -> dict[tuple[str, str], list[Any]]:
    return plain({name: [it.bucket() for it in spans.values()] for name, spans in fold._buckets.items()})


@pytest.mark.parametrize(("piece", "full"), [(1, 1), (1, 8192), (7, 20), (7, 8192), (256, 8192)])
async def test_fold_equals_its_naive_twin(
    redis: Redis, piece: int, full: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the pieces, the transactions, the workers in between and the order of windows: the buckets of
    one big sum."""
    monkeypatch.setattr(fold_module, "PIECE_WINDOWS", piece)
    monkeypatch.setattr(fold_batch, "FULL_WINDOWS", full)
    monkeypatch.setattr("app.statistics.reservoir.ROUTES_PER_BLOCK", 50)
    rng = random.Random(piece)
    windows = [
        make(
            rng,
            node_id=rng.choice(["n1", "n2"]),
            model_id=rng.choice(["moe", "other"]),
            at=rng.uniform(0, 900),
        )
        for _ in range(60)
    ]
    newest = max(w.end_us for w in windows)
    ids = await append(redis, *windows[:30])
    assert await fold_all(await started(redis)) == 30
    ids += await append(redis, *windows[30:])
    fold = await started(redis, "w1")
    assert await fold_all(fold) == 30
    expected = plain(naive(ids, windows, (newest - START) / 1e6))
    assert held(fold) == expected
    again = await started(redis)
    await again.load()
    assert held(again) == expected
    assert again.until_us == newest
    assert await total(redis, "windows_total") == 60
    assert await total(redis, "tokens_total") == sum(w.tokens for w in windows)
    assert await redis.xlen(KEYS.telemetry) == 0
    assert await redis.get(KEYS.telemetry_bytes) == b"0"


async def test_nothing_is_folded_without_the_lease(redis: Redis) -> None:
    """A worker that lost its lease changes nothing, and the next one folds all."""
    await append(redis, make(random.Random(1)))
    stale = await started(redis, "w1")
    await stale.load()
    await redis.delete(KEYS.lease)
    fold = await started(redis, "w2")
    with pytest.raises(LeaseLost):
        await stale.fold(MODELS, NODES, SETTINGS)
    assert await redis.exists(KEYS.folded) == 0
    assert await fold_all(fold) == 1


async def test_a_commit_whose_answer_was_lost_is_not_done_again(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction went through and its answer did not: the next fold begins where it ended."""
    rng = random.Random(2)
    await append(redis, make(rng), make(rng))
    fold = await started(redis)

    async def losing(*args: Any, **options: Any) -> None:
        await fenced(*args, **options)
        raise RedisConnectionError("the answer was lost")

    monkeypatch.setattr(fold_module, "fenced", losing)
    with pytest.raises(RedisConnectionError):
        await fold.fold(MODELS, NODES, SETTINGS)
    monkeypatch.setattr(fold_module, "fenced", fenced)
    await append(redis, make(rng))
    assert await fold_all(fold) == 1
    assert await total(redis, "windows_total") == 3


async def test_two_folds_of_one_lease_do_not_count_twice(redis: Redis) -> None:
    """A fold that began before another one committed gives up its batch and loads anew."""
    rng = random.Random(3)
    lease = await lease_of(redis)
    first, second = TelemetryFold(redis, KEYS, lease), TelemetryFold(redis, KEYS, lease)
    await first.load()
    await second.load()
    await append(redis, make(rng))
    assert await fold_all(first) == 1
    await append(redis, make(rng))
    with pytest.raises(FoldMoved):
        await second.fold(MODELS, NODES, SETTINGS)
    assert await fold_all(second) == 1
    assert await total(redis, "windows_total") == 2


@pytest.mark.parametrize(
    "poison",
    [
        b"",
        b"\xc1",
        pack(make(random.Random(4), model_digest="another")),
        pack(make(random.Random(4), node_id="gone")),
        pack(make(random.Random(4)))[:-5],
        unfit((1,), b"123"),
        unfit((99,), b"123"),
        unfit(None, b"123"),
        unfit((), b"1", experts=packed([1 << 20], "<u4")),
        unfit((), b"1", experts=packed([0, 1], "<u4")),
        unfit((), b"", [PackedRoutes(1, 2, b"\0" * 8, b"\0" * 4)]),
        unfit((), b"", [PackedRoutes(1, 2, b"\xf0" * 8, None)]),
        unfit((), b"", [PackedRoutes(1, 2, b"\0\0", None), PackedRoutes(4, 2, b"\1\0", None)]),
        unfit((), b"", [PackedRoutes(1, 2**63, b"\0" * 8, None)]),
    ],
)
@pytest.mark.parametrize("piece", [1, 256])
async def test_what_cannot_be_folded_does_not_block(
    redis: Redis, poison: bytes, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is counted, left out and trimmed; windows around it are folded, and nothing of it."""
    monkeypatch.setattr(fold_module, "PIECE_WINDOWS", piece)
    rng = random.Random(5)
    around = [make(rng), make(rng)]
    await append(redis, around[0], poison, around[1])
    outcome = await (await started(redis)).fold(MODELS, NODES, SETTINGS)
    assert (outcome.windows, outcome.discarded, outcome.tokens) == (2, 1, sum(it.tokens for it in around))
    assert outcome.activations == sum(int(it.counted().sum()) for it in around)
    assert await total(redis, "discarded_total") == 1
    assert await redis.xlen(KEYS.telemetry) == 0
    assert await redis.get(KEYS.telemetry_bytes) == b"0"


async def test_what_is_too_old_is_forgotten(redis: Redis) -> None:
    """Beyond the statistics window, buckets leave Redis and memory; a node's last one takes its key along."""
    rng = random.Random(6)
    await append(redis, make(rng, node_id="n1", at=0), make(rng, node_id="n2", at=0), make(rng, at=700))
    fold = await started(redis)
    await fold_all(fold)
    assert await redis.hlen(KEYS.statistics("n1", "moe")) == 2
    await append(redis, make(rng, at=1300))
    await fold_all(fold)
    assert await redis.hlen(KEYS.statistics("n1", "moe")) == 2
    assert await redis.exists(KEYS.statistics("n2", "moe")) == 0
    assert await redis.hkeys(KEYS.statistics_index) == [b"n1/moe"]
    again = await started(redis)
    await again.load()
    assert held(again) == held(fold)


@pytest.mark.parametrize("change", ["model registered anew", "model gone", "node gone"])
async def test_statistics_end_with_what_they_are_of(redis: Redis, change: str) -> None:
    """Other blocks under the same id start anew, without a window having to come."""
    await append(redis, make(random.Random(7)), make(random.Random(7), node_id="n2"))
    fold = await started(redis)
    await fold_all(fold)
    models = {} if change == "model gone" else dict(MODELS)
    if change == "model registered anew":
        models["moe"] = model(digest="d9")
    await fold.fold(models, {"n2"} if change == "node gone" else NODES, SETTINGS)
    left = [b"n2/moe"] if change == "node gone" else []
    assert await redis.hkeys(KEYS.statistics_index) == left
    assert await redis.exists(KEYS.statistics("n1", "moe")) == 0
    assert list((await fold.statistics(models, SETTINGS)).traffic) == ([("n2", "moe")] if left else [])


async def test_rates_follow_from_the_windows(redis: Redis) -> None:
    """Read after a fold: activations per second of the window's counts."""
    window = make(random.Random(8))
    await append(redis, window)
    fold = await started(redis)
    await fold_all(fold)
    found = await fold.statistics(MODELS, SETTINGS)
    traffic = found.traffic["n1", "moe"]
    assert found.until_us == window.end_us
    assert traffic.tokens_per_second == pytest.approx(window.tokens / 10)
    counted = Bucket.of([(window, 0)], Layout.of(MODELS["moe"]), 1)[0].counts
    assert traffic.activations_per_second == pytest.approx(counted / 10)
    assert traffic.route_weight.sum() == pytest.approx(window.routes[0].weighed().sum())


async def test_windows_of_a_newer_format_wait_for_a_newer_worker(redis: Redis) -> None:
    """During a rolling upgrade an older worker folds what it knows and loses nothing that it does not."""
    windows = [make(random.Random(n), at=n) for n in range(3)]
    newer = msgspec.msgpack.encode([VERSION + 1, {"all": "different"}])
    ids = await append(redis, windows[0], newer, windows[1])
    fold = await started(redis)
    assert await fold_all(fold) == 1
    waiting = cast("list[tuple[bytes, object]]", await redis.xrange(KEYS.telemetry))
    assert [entry_id for entry_id, _ in waiting] == ids[1:]
    assert await total(redis, "discarded_total") == 0
    await append(redis, windows[2])
    assert await fold_all(fold) == 0


async def test_fields_that_a_newer_api_appends_to_windows_are_ignored(redis: Redis) -> None:
    """A window with fields at its end, and at the end of its routes, folds as one without them."""
    window = make(random.Random(1))
    longer = msgspec.msgpack.decode(pack(window))
    longer.append({"appended": 1})
    for routes in longer[12]:
        routes.append("appended")
    assert unpack(msgspec.msgpack.encode(longer)) == window
    await append(redis, msgspec.msgpack.encode(longer))
    assert await fold_all(await started(redis)) == 1
