"""/v1/clusters/{cluster_id}/models"""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import Response

from app.http.answers import json_answer, large_json_answer
from app.http.json_body import Limits, json_body
from app.http.openapi import answer, body, problems
from app.http.parameters import ClusterId, ModelId
from app.http.state import redis_of, settings_of
from app.models import service
from app.models.schemas import ModelList, ModelRecord, ModelSpec
from app.schema import ID_PATTERN

router = APIRouter(prefix="/v1/clusters/{cluster_id}/models", tags=["models"])

MODEL = Limits(body_bytes=8 << 20, values=125_000)
"""With a digest of each expert; a model without digests may have more experts."""

EXAMPLES = {
    "preset": {"preset": "deepseek-v2-lite"},
    "blocks": {
        "blocks": [
            {"layer": 0, "experts": 32, "expert_bytes": 98304, "top_k": 2},
            {"layer": 1, "experts": 32, "expert_bytes": 98304, "top_k": 2},
        ],
        "origin_url": "https://experts.example/tiny-moe",
    },
    "huggingface_config": {
        "huggingface_config": {
            "model_type": "mixtral",
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "torch_dtype": "bfloat16",
        }
    },
}


@router.get(
    "",
    summary="List the models",
    operation_id="list_models",
    response_class=Response,
    responses={200: answer(ModelList, "A page of models."), **problems(404)},
)
async def list_models(
    request: Request,
    cluster_id: ClusterId,
    limit: Annotated[int, Query(ge=1, le=64)] = 16,
    after: Annotated[str | None, Query(pattern=ID_PATTERN)] = None,
) -> Response:
    return await large_json_answer(
        await service.list_models(redis_of(request), cluster_id, limit=limit, after=after)
    )


@router.get(
    "/{model_id}",
    summary="Read a model",
    operation_id="get_model",
    response_class=Response,
    responses={200: answer(ModelRecord, "Its MoE layers."), **problems(404)},
)
async def get_model(request: Request, cluster_id: ClusterId, model_id: ModelId) -> Response:
    return await large_json_answer(await service.get_model(redis_of(request), cluster_id, model_id))


@router.put(
    "/{model_id}",
    summary="Register a model, or replace it",
    description="Describe it by its MoE layers, by the name of a known architecture, or by a Hugging "
    "Face config.json. Creates the cluster if it does not exist.",
    operation_id="put_model",
    response_class=Response,
    openapi_extra=body(ModelSpec, examples=EXAMPLES),
    responses={
        200: answer(ModelRecord, "Replaced, or unchanged."),
        201: answer(ModelRecord, "Registered."),
        **problems(404, 409, reads_body=True),
    },
)
async def put_model(
    request: Request,
    cluster_id: ClusterId,
    model_id: ModelId,
    spec: Annotated[ModelSpec, Depends(json_body(ModelSpec, limits=MODEL))],
) -> Response:
    model, created = await service.put_model(
        redis_of(request), cluster_id, model_id, spec, max_clusters=settings_of(request).max_clusters
    )
    if not created:
        return json_answer(model)
    return json_answer(
        model, status=201, headers={"Location": f"/v1/clusters/{cluster_id}/models/{model_id}"}
    )


@router.delete(
    "/{model_id}",
    status_code=204,
    summary="Remove a model",
    description="The next placement contains none of its experts, and nodes are ordered to evict "
    "those they hold.",
    operation_id="delete_model",
    response_class=Response,
    responses={204: {"description": "Removed."}, **problems(404)},
)
async def delete_model(request: Request, cluster_id: ClusterId, model_id: ModelId) -> Response:
    await service.delete_model(redis_of(request), cluster_id, model_id)
    return Response(status_code=204)
