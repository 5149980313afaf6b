"""What may be done to models."""

import hashlib
from bisect import bisect_right
from itertools import accumulate

import orjson
from redis.asyncio import Redis

from app.clusters.store import ensure_cluster, require_cluster
from app.errors import FieldError, InvalidRequest, NotFound
from app.http.answers import PAGE_BYTES
from app.models import store
from app.models.huggingface import read_config
from app.models.presets import PRESETS
from app.models.schemas import Block, ModelList, ModelRecord, ModelSpec
from app.storage.clock import server_now


async def put_model(
    redis: Redis, cluster_id: str, model_id: str, spec: ModelSpec, *, max_clusters: int
) -> tuple[ModelRecord, bool]:
    """Register it, or replace it; the model, and whether it is new."""
    blocks, source = resolve(spec)
    digest = blocks_digest(blocks)
    await ensure_cluster(redis, cluster_id, limit=max_clusters)
    now = server_now()

    def revise(before: ModelRecord | None) -> ModelRecord:
        record = ModelRecord(
            model_id=model_id,
            digest=digest,
            created_at=before.created_at if before else now,
            updated_at=before.updated_at if before else now,
            blocks=blocks,
            source=source,
            origin_url=spec.origin_url,
        )
        return record if record == before else record.model_copy(update={"updated_at": now})

    return await store.write_model(redis, cluster_id, model_id, revise)


async def get_model(redis: Redis, cluster_id: str, model_id: str) -> ModelRecord:
    record = await store.read_model(redis, cluster_id, model_id)
    if record is None:
        raise NotFound(f"there is no model {model_id} in cluster {cluster_id}")
    return record


async def list_models(redis: Redis, cluster_id: str, *, limit: int, after: str | None) -> ModelList:
    await require_cluster(redis, cluster_id)
    ids = await store.model_ids(redis, cluster_id)
    start = bisect_right(ids, after) if after is not None else 0
    page = ids[start : start + limit]
    sizes = accumulate(await store.sizes(redis, cluster_id, page))
    page = page[: 1 + sum(size < PAGE_BYTES for size in sizes)]
    more = start + len(page) < len(ids)
    return ModelList(
        models=await store.read_models(redis, cluster_id, page),
        next_after=page[-1] if more and page else None,
    )


async def delete_model(redis: Redis, cluster_id: str, model_id: str) -> None:
    """Nodes are told to evict its experts with their next assignment; its statistics are forgotten."""
    if not await store.delete_model(redis, cluster_id, model_id):
        raise NotFound(f"there is no model {model_id} in cluster {cluster_id}")


def resolve(spec: ModelSpec) -> tuple[list[Block], str]:
    """The blocks that the specification stands for, and what they come from."""
    if spec.blocks is not None:
        blocks, source = spec.blocks, "blocks"
    elif spec.preset is not None:
        architecture = PRESETS.get(spec.preset.lower())
        if architecture is None:
            raise _refused("/preset", f"expected one of {', '.join(PRESETS)}", "UNKNOWN_PRESET")
        blocks, source = architecture.blocks(), f"preset:{spec.preset.lower()}"
    else:
        assert spec.huggingface_config is not None  # the schema wants exactly one of the three
        model_type, blocks = read_config(spec.huggingface_config, spec.hf_quant_config)
        source = f"huggingface_config:{model_type}"
    experts = sum(block.experts for block in blocks)
    if experts > store.MAX_EXPERTS:
        raise _refused("", f"{experts} experts, there may be {store.MAX_EXPERTS}", "TOO_MANY_EXPERTS")
    return blocks, source


def blocks_digest(blocks: list[Block]) -> str:
    body = orjson.dumps([block.model_dump() for block in blocks], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(body).hexdigest()[:16]


def _refused(pointer: str, detail: str, code: str) -> InvalidRequest:
    return InvalidRequest(f"{pointer or 'the body'}: {detail}", errors=[FieldError(pointer, detail, code)])
