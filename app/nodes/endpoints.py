"""/v1/clusters/{cluster_id}/nodes"""

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.http.answers import json_answer, large_json_answer
from app.http.json_body import Limits, json_body, read_json
from app.http.noted import Change, note_changes
from app.http.openapi import (
    CLUSTER_ID,
    NODE_ID,
    RETRY_AFTER,
    answer,
    body,
    operation,
    problem,
    problems,
)
from app.http.parameters import ClusterId, NodeId, header, path_id
from app.http.state import redis_of, settings_of
from app.nodes import service
from app.nodes.heartbeat import report_status
from app.nodes.holdings import MAX_MEMBERS, DigestMemory
from app.nodes.registration import put_node as register
from app.nodes.schemas import NodeList, NodeResource, NodeSpec, NodeStatusAnswer, NodeStatusReport
from app.schema import ID_PATTERN

router = APIRouter(prefix="/v1/clusters/{cluster_id}/nodes", tags=["nodes"])

HALF_A_SECOND = timedelta(seconds=0.5)

_TAKEN = {
    **problem(409),
    "description": "Another agent uses this node id (`errors` has the code NODE_ID_TAKEN), or the "
    "cluster has the largest number of nodes.",
    "headers": {"Retry-After": {**RETRY_AFTER["Retry-After"], "required": False}},
}

HEARTBEAT = Limits(body_bytes=4 << 20, values=MAX_MEMBERS + 20_000, names=16_000)
"""All that a node may hold, in one report."""

SPEC_EXAMPLE = {
    "instance_uid": "0199d8a2-6c1e",
    "devices": [{"device_id": "gpu0", "memory_bytes": 8_000_000_000}],
    "ingress_bytes_per_second": 1.25e8,
    "egress_bytes_per_second": 1.25e8,
    "base_url": "http://node-a.example:8000",
    "experts_url": "http://node-a.example:9000",
    "latency": {"local_seconds": 0.0005, "peers_seconds": {"node-b": 0.004}, "origin_seconds": 0.08},
}
STATUS_EXAMPLES = {
    "full state": {
        "instance_uid": "0199d8a2-6c1e",
        "sequence_number": 1,
        "state": "APPLIED",
        "holds": [{"model_id": "tiny-moe", "layer": 0, "experts": [0, 3, 17]}],
    },
    "what changed": {
        "instance_uid": "0199d8a2-6c1e",
        "sequence_number": 2,
        "state": "APPLYING",
        "generation": 7,
        "holds_changed": {"added": [{"model_id": "tiny-moe", "layer": 0, "experts": [4]}]},
    },
}


@router.get(
    "",
    summary="List the nodes",
    operation_id="list_nodes",
    response_class=Response,
    responses={200: answer(NodeList, "A page of nodes."), **problems(404)},
)
async def list_nodes(
    request: Request,
    cluster_id: ClusterId,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[str | None, Query(pattern=ID_PATTERN)] = None,
) -> Response:
    return await large_json_answer(
        await service.list_nodes(
            redis_of(request), settings_of(request), cluster_id, limit=limit, after=after
        )
    )


@router.get(
    "/{node_id}",
    summary="Read a node",
    operation_id="get_node",
    response_class=Response,
    responses={200: answer(NodeResource, "The node and its last heartbeat."), **problems(404)},
)
async def get_node(request: Request, cluster_id: ClusterId, node_id: NodeId) -> Response:
    return json_answer(await service.get_node(redis_of(request), settings_of(request), cluster_id, node_id))


@router.put(
    "/{node_id}",
    summary="Register a node",
    description="A new `instance_uid` starts the node again: it holds nothing until it reports. With "
    "the known `instance_uid` the rest of the specification is replaced. Both renew the "
    "lease, even if it had run out. A draining node stays draining until it is removed. "
    "Creates the cluster if it does not exist. `labels` are accepted and ignored: earlier "
    "versions stored them and nothing used them.\n\n409 with type `/problems/node-taken`: "
    "another live instance has the node. An instance takes over the node without a "
    "conflict if the previous one has been silent for one and a half heartbeats, or if "
    "both serve at the same URL (the agent was restarted) and it was not itself replaced "
    "before. `take_over` takes the node in any case. 429: the node registers too often.",
    operation_id="put_node",
    response_class=Response,
    openapi_extra=body(NodeSpec, examples={"one GPU": SPEC_EXAMPLE}),
    responses={
        200: answer(NodeResource, "Known before."),
        201: answer(NodeResource, "Registered."),
        **problems(404, 429, reads_body=True),
        409: _TAKEN,
    },
)
async def put_node(
    request: Request,
    cluster_id: ClusterId,
    node_id: NodeId,
    spec: Annotated[NodeSpec, Depends(json_body(NodeSpec))],
    take_over: Annotated[
        bool, Query(description="Take the node from another instance even if that one is alive.")
    ] = False,
) -> Response:
    node, created = await register(
        redis_of(request), settings_of(request), cluster_id, node_id, spec, take_over=take_over
    )
    if not created:
        return json_answer(node)
    return json_answer(node, status=201, headers={"Location": f"/v1/clusters/{cluster_id}/nodes/{node_id}"})


@router.delete(
    "/{node_id}",
    status_code=202,
    summary="Drain a node",
    description="The next placement gives the node nothing, and it is removed when its experts are "
    "held elsewhere. If its agent registers it again, it is DRAINED and gets no experts "
    "until `:undrain`.",
    operation_id="drain_node",
    response_class=Response,
    responses={202: answer(NodeResource, "Draining."), **problems(404)},
)
async def drain_node(request: Request, cluster_id: ClusterId, node_id: NodeId) -> Response:
    redis, settings = redis_of(request), settings_of(request)
    before = await service.get_node(redis, settings, cluster_id, node_id)
    node = await service.drain_node(redis, settings, cluster_id, node_id)
    note_changes(request.scope, [Change(pointer="/condition", old=before.condition, new=node.condition)])
    return json_answer(node, status=202)


@router.post(
    "/{node_id}:undrain",
    summary="Readmit a drained node",
    description="Ends a drain that is under way, or readmits a drained node, now or when it registers "
    "again. Placements may then give it experts.",
    operation_id="undrain_node",
    response_class=Response,
    responses={
        200: answer(NodeResource, "The node may be given experts."),
        204: {"description": "The node may be given experts once it registers; it is not registered now."},
        **problems(404),
    },
)
async def undrain_node(request: Request, cluster_id: ClusterId, node_id: NodeId) -> Response:
    before, node = await service.undrain_node(redis_of(request), settings_of(request), cluster_id, node_id)
    after = None if node is None else node.condition
    note_changes(request.scope, [Change(pointer="/condition", old=before, new=after)])
    return Response(status_code=204) if node is None else json_answer(node)


async def put_status(request: Request) -> Response:
    cluster_id, node_id = path_id(request, "cluster_id"), path_id(request, "node_id")
    report = await read_json(request, NodeStatusReport, limits=HEARTBEAT)
    state = request.app.state
    digests = getattr(state, "holdings_digests", None)
    if digests is None:
        digests = state.holdings_digests = DigestMemory()
    return json_answer(
        await report_status(
            redis_of(request),
            settings_of(request),
            digests,
            cluster_id,
            node_id,
            report,
            sent_at=_sent_at(request),
        )
    )


def _sent_at(request: Request) -> datetime | None:
    """What the node's clock showed, by its Date header; that has whole seconds, so half of one is added."""
    given = header(request, b"date")
    try:
        return None if given is None else parsedate_to_datetime(given).astimezone(UTC) + HALF_A_SECOND
    except (ValueError, OverflowError):
        return None


routes = [Route("/v1/clusters/{cluster_id}/nodes/{node_id}/status", put_status, methods=["PUT"])]

openapi = {
    "paths": {
        "/v1/clusters/{cluster_id}/nodes/{node_id}/status": {
            "put": operation(
                "put_node_status",
                "Send a heartbeat",
                "nodes",
                [CLUSTER_ID, NODE_ID],
                {
                    200: answer(NodeStatusAnswer, "Accepted. `directives` say what to do next."),
                    **problems(404, 409, reads_body=True),
                },
                description="Renews the lease and replaces the last status. `holds` replaces what the "
                "node is known to hold. `holds_changed` edits it if `sequence_number` "
                "follows the last one; after a gap, a lapse of the lease or a different "
                "digest, the answer asks for `holds`. The `Date` header, if present, says "
                "what the node's clock shows. Experts of models that are not registered "
                "may be named and are ignored; experts that a registered model does not "
                "have (any more) are listed in `evict` of the assignment.",
                request=body(NodeStatusReport, examples=STATUS_EXAMPLES),
            )
        }
    }
}
