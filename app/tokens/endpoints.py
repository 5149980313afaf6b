"""/v1/tokens and /v1/clusters/{cluster_id}/tokens"""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from app.access.guard import principal_of
from app.access.secret import TOKEN_ID_PATTERN
from app.http.answers import json_answer, large_json_answer
from app.http.json_body import json_body
from app.http.openapi import answer, body, problems
from app.http.parameters import ClusterId
from app.http.state import redis_of, settings_of
from app.storage.keys import EVERYWHERE
from app.tokens import service
from app.tokens.schemas import GlobalTokenRequest, IssuedToken, TokenList, TokenRequest

router = APIRouter(prefix="/v1", tags=["tokens"])

TokenId = Annotated[str, Path(pattern=TOKEN_ID_PATTERN)]
Limit = Annotated[int, Query(ge=1, le=1000)]
After = Annotated[str | None, Query(pattern=TOKEN_ID_PATTERN)]

_LISTED = "Their secrets are not shown, because they are not stored."
_ISSUED = (
    "The token is shown in this answer and never again. Once the first token has been issued, the "
    "service requires tokens."
)


@router.get(
    "/tokens",
    summary="List the tokens of all clusters",
    description=f"Tokens that are valid for every cluster. {_LISTED}",
    operation_id="list_global_tokens",
    response_class=Response,
    responses={200: answer(TokenList, "A page of tokens."), **problems()},
)
async def list_global_tokens(request: Request, limit: Limit = 100, after: After = None) -> Response:
    return await large_json_answer(
        await service.list_tokens(redis_of(request), EVERYWHERE, limit=limit, after=after)
    )


@router.post(
    "/tokens",
    status_code=201,
    summary="Issue a token of all clusters",
    description=_ISSUED,
    operation_id="issue_global_token",
    response_class=Response,
    openapi_extra=body(
        GlobalTokenRequest, examples={"Prometheus": {"role": "READER", "note": "Prometheus in the region"}}
    ),
    responses={201: answer(IssuedToken, "Issued."), **problems(409, reads_body=True)},
)
async def issue_global_token(
    request: Request, wanted: Annotated[GlobalTokenRequest, Depends(json_body(GlobalTokenRequest))]
) -> Response:
    issued = await service.issue(
        redis_of(request),
        EVERYWHERE,
        wanted.role,
        note=wanted.note,
        expires_in_seconds=wanted.expires_in_seconds,
        created_by=principal_of(request).token_id,
        max_clusters=settings_of(request).max_clusters,
    )
    return json_answer(issued, status=201)


@router.delete(
    "/tokens/{token_id}",
    status_code=204,
    summary="Revoke a token of all clusters",
    operation_id="revoke_global_token",
    response_class=Response,
    responses={204: {"description": "Revoked."}, **problems(404)},
)
async def revoke_global_token(request: Request, token_id: TokenId) -> Response:
    await service.revoke(redis_of(request), EVERYWHERE, token_id)
    return Response(status_code=204)


@router.get(
    "/clusters/{cluster_id}/tokens",
    summary="List the tokens of a cluster",
    description=f"Tokens that are valid for this cluster only. {_LISTED}",
    operation_id="list_tokens",
    response_class=Response,
    responses={200: answer(TokenList, "A page of tokens."), **problems(404)},
)
async def list_tokens(
    request: Request, cluster_id: ClusterId, limit: Limit = 100, after: After = None
) -> Response:
    return await large_json_answer(
        await service.list_tokens(redis_of(request), cluster_id, limit=limit, after=after)
    )


@router.post(
    "/clusters/{cluster_id}/tokens",
    status_code=201,
    summary="Issue a token of a cluster",
    description=f"{_ISSUED} Creates the cluster where there is none.",
    operation_id="issue_token",
    response_class=Response,
    openapi_extra=body(
        TokenRequest,
        examples={
            "node": {"role": "NODE", "node_id": "node-a"},
            "a colleague for a week": {"role": "READER", "note": "Ada", "expires_in_seconds": 604800.0},
        },
    ),
    responses={201: answer(IssuedToken, "Issued."), **problems(409, reads_body=True)},
)
async def issue_token(
    request: Request,
    cluster_id: ClusterId,
    wanted: Annotated[TokenRequest, Depends(json_body(TokenRequest))],
) -> Response:
    issued = await service.issue(
        redis_of(request),
        cluster_id,
        wanted.role,
        node_id=wanted.node_id,
        note=wanted.note,
        expires_in_seconds=wanted.expires_in_seconds,
        created_by=principal_of(request).token_id,
        max_clusters=settings_of(request).max_clusters,
    )
    return json_answer(issued, status=201)


@router.delete(
    "/clusters/{cluster_id}/tokens/{token_id}",
    status_code=204,
    summary="Revoke a token of a cluster",
    operation_id="revoke_token",
    response_class=Response,
    responses={204: {"description": "Revoked."}, **problems(404)},
)
async def revoke_token(request: Request, cluster_id: ClusterId, token_id: TokenId) -> Response:
    await service.revoke(redis_of(request), cluster_id, token_id)
    return Response(status_code=204)
