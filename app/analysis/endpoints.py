"""/v1/clusters/{cluster_id}/analysis"""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from app.analysis import service
from app.analysis.schemas import Analysis, AnalysisOverview, LayerActivations
from app.http import conditional
from app.http.answers import version_of
from app.http.openapi import IF_NONE_MATCH, document_answers, problems
from app.http.parameters import ClusterId, ModelId
from app.http.state import redis_of
from app.schema import ID_PATTERN
from app.storage.documents import encode_document

router = APIRouter(prefix="/v1/clusters/{cluster_id}/analysis", tags=["analysis"])


@router.get(
    "",
    summary="Read the analysis of the fleet",
    description="For what the nodes hold now: where and how fast activations are served, how load is "
    "spread, and which experts are popular, per node and layer. Filters restrict `nodes` "
    "and their `layers`; all other figures are still those of the whole fleet.",
    operation_id="get_analysis",
    response_class=Response,
    openapi_extra={"parameters": [IF_NONE_MATCH]},
    responses={**document_answers(Analysis, "The newest analysis."), **problems(404)},
)
async def get_analysis(
    request: Request,
    cluster_id: ClusterId,
    node_id: Annotated[str | None, Query(pattern=ID_PATTERN)] = None,
    model_id: Annotated[str | None, Query(pattern=ID_PATTERN)] = None,
    layer: Annotated[int | None, Query(ge=0, le=9_999)] = None,
) -> Response:
    wanted = service.Filter(node_id, model_id, layer)
    document = await service.read_analysis(redis_of(request), cluster_id, wanted)
    return conditional.respond(request, document)


@router.get(
    "/overview",
    summary="Read a summary of the analysis",
    description="The analysis without the figures of single layers at single nodes: each node over "
    "all layers, and each layer over all nodes.",
    operation_id="get_analysis_overview",
    response_class=Response,
    openapi_extra={"parameters": [IF_NONE_MATCH]},
    responses={**document_answers(AnalysisOverview, "The newest analysis."), **problems(404)},
)
async def get_overview(request: Request, cluster_id: ClusterId) -> Response:
    return conditional.respond(request, await service.read_overview(redis_of(request), cluster_id))


@router.get(
    "/layers/{model_id}/{layer}",
    summary="Read the analysis of one layer, by expert and node",
    description="What each node's tokens activate, what it holds, and what it should hold. In very "
    "large fleets the layers are analysed in turn; `created_at` says when.",
    operation_id="get_layer_activations",
    response_class=Response,
    openapi_extra={"parameters": [IF_NONE_MATCH]},
    responses={**document_answers(LayerActivations, "The newest analysis of the layer."), **problems(404)},
)
async def get_layer(
    request: Request, cluster_id: ClusterId, model_id: ModelId, layer: Annotated[int, Path(ge=0, le=9_999)]
) -> Response:
    uid, stored = await service.read_layer(redis_of(request), cluster_id, model_id, layer)
    # Known by what is stored, which takes far less time than making the answer of it.
    version = version_of(stored, uid)
    tag = conditional.named_tag(request, version)
    if tag is not None:
        return conditional.not_modified(request, tag)
    body = await asyncio.to_thread(service.layer_json, stored)
    digest = version.rpartition(".")[2]
    document = await asyncio.to_thread(encode_document, body, uid=uid, generation=0, digest=digest)
    return conditional.represent(request, document)
