"""/v1/clusters/{cluster_id}/analysis"""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from app.analysis import service
from app.analysis.schemas import Analysis
from app.http import conditional
from app.http.openapi import IF_NONE_MATCH, document_answers, problems
from app.http.parameters import ClusterId
from app.http.state import redis_of
from app.schema import ID_PATTERN

router = APIRouter(prefix="/v1/clusters/{cluster_id}/analysis", tags=["analysis"])


@router.get(
    "",
    summary="See how the fleet does",
    description="Under what its nodes hold now: per node and layer where activations were served and how "
    "fast, how the load is spread, what is popular. With a filter `nodes` and their `layers` are those asked "
    "for, and the rest is of the whole fleet still.",
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
