"""/v1/clusters/{cluster_id}/network"""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from app.http.answers import versioned_answer
from app.http.openapi import IF_NONE_MATCH, document_answers, problems
from app.http.parameters import ClusterId
from app.http.state import redis_of
from app.network import service
from app.network.schemas import Network

router = APIRouter(prefix="/v1/clusters/{cluster_id}/network", tags=["nodes"])


@router.get(
    "",
    summary="Read the latencies between nodes",
    description="The latencies that placements are computed with: measured by the node, otherwise "
    "specified, otherwise the cluster's default.",
    operation_id="get_network",
    response_class=Response,
    openapi_extra={"parameters": [IF_NONE_MATCH]},
    responses={**document_answers(Network, "Every node's view."), **problems(404)},
)
async def get_network(request: Request, cluster_id: ClusterId) -> Response:
    uid, body = await service.read_network(redis_of(request), cluster_id)
    return await versioned_answer(request, body, uid=uid)
