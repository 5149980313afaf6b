"""Who may call which route: the one table of it.

A route that is not in the table cannot be served (`rule_of` fails when the application is put together).
"""

from collections.abc import Mapping
from enum import Enum

from app.access.roles import Principal, Role
from app.errors import FieldError, Forbidden


class Rule(Enum):
    """Tokens of one cluster are good below that cluster only, whatever the rule; operators may do it all."""

    OPEN = "anybody, without a token"
    LISTING = "every token; the answer has what the token may see"
    READ = "readers"
    METRICS = "readers of all clusters; everybody, with the setting open_metrics"
    READ_BY_NODES = "readers, and every node of the cluster"
    READ_BY_NODE = "readers, and the node itself"
    REPORT = "the node itself"
    REPORT_MOVE = "the node that makes the move"
    OPERATE = "operators alone"


_CLUSTER = "/v1/clusters/{cluster_id}"

RULES: Mapping[str, Rule] = {
    "GET /": Rule.OPEN,
    "GET /console/{path:path}": Rule.OPEN,
    "GET /docs": Rule.OPEN,
    "GET /openapi.json": Rule.OPEN,
    "GET /healthz": Rule.OPEN,
    "GET /readyz": Rule.OPEN,
    "GET /metrics": Rule.METRICS,
    # --- tokens and what was done with them
    "GET /v1/tokens": Rule.OPERATE,
    "POST /v1/tokens": Rule.OPERATE,
    "DELETE /v1/tokens/{token_id}": Rule.OPERATE,
    f"GET {_CLUSTER}/tokens": Rule.OPERATE,
    f"POST {_CLUSTER}/tokens": Rule.OPERATE,
    f"DELETE {_CLUSTER}/tokens/{{token_id}}": Rule.OPERATE,
    "GET /v1/audit": Rule.READ,
    f"GET {_CLUSTER}/audit": Rule.READ,
    # --- clusters and models
    "GET /v1/clusters": Rule.LISTING,
    "GET /v1/algorithms": Rule.LISTING,
    f"GET {_CLUSTER}": Rule.READ_BY_NODES,
    f"PUT {_CLUSTER}": Rule.OPERATE,
    f"PATCH {_CLUSTER}": Rule.OPERATE,
    f"DELETE {_CLUSTER}": Rule.OPERATE,
    f"GET {_CLUSTER}/models": Rule.READ_BY_NODES,
    f"GET {_CLUSTER}/models/{{model_id}}": Rule.READ_BY_NODES,
    f"PUT {_CLUSTER}/models/{{model_id}}": Rule.OPERATE,
    f"DELETE {_CLUSTER}/models/{{model_id}}": Rule.OPERATE,
    # --- nodes
    f"GET {_CLUSTER}/nodes": Rule.READ_BY_NODES,
    f"GET {_CLUSTER}/nodes/{{node_id}}": Rule.READ_BY_NODE,
    f"PUT {_CLUSTER}/nodes/{{node_id}}": Rule.REPORT,
    f"DELETE {_CLUSTER}/nodes/{{node_id}}": Rule.OPERATE,
    f"POST {_CLUSTER}/nodes/{{node_id}}:undrain": Rule.OPERATE,
    f"PUT {_CLUSTER}/nodes/{{node_id}}/status": Rule.REPORT,
    f"POST {_CLUSTER}/nodes/{{node_id}}/telemetry": Rule.REPORT,
    f"GET {_CLUSTER}/nodes/{{node_id}}/assignment": Rule.READ_BY_NODE,
    f"GET {_CLUSTER}/nodes/{{node_id}}/moves": Rule.READ_BY_NODE,
    f"POST {_CLUSTER}/nodes/{{node_id}}/move_reports": Rule.REPORT,
    # --- placements
    f"GET {_CLUSTER}/placement": Rule.READ,
    f"PUT {_CLUSTER}/placement": Rule.OPERATE,
    f"GET {_CLUSTER}/placement/status": Rule.READ,
    f"POST {_CLUSTER}/placement:rollback": Rule.OPERATE,
    f"POST {_CLUSTER}/placement:pause": Rule.OPERATE,
    f"POST {_CLUSTER}/placement:resume": Rule.OPERATE,
    f"GET {_CLUSTER}/placements": Rule.READ,
    f"GET {_CLUSTER}/placements/{{generation}}": Rule.READ,
    f"GET {_CLUSTER}/placements/{{generation}}/outcome": Rule.READ,
    f"GET {_CLUSTER}/analysis": Rule.READ,
    f"GET {_CLUSTER}/analysis/overview": Rule.READ,
    f"GET {_CLUSTER}/analysis/layers/{{model_id}}/{{layer}}": Rule.READ,
    f"GET {_CLUSTER}/network": Rule.READ,
    # --- work
    f"GET {_CLUSTER}/optimizations": Rule.READ,
    f"POST {_CLUSTER}/optimizations": Rule.OPERATE,
    f"GET {_CLUSTER}/optimizations/{{optimization_id}}": Rule.READ,
    f"POST {_CLUSTER}/optimizations/{{optimization_id}}:cancel": Rule.OPERATE,
    f"GET {_CLUSTER}/migration_plans": Rule.READ,
    f"POST {_CLUSTER}/migration_plans": Rule.OPERATE,
    f"GET {_CLUSTER}/migration_plans/{{plan_id}}": Rule.READ,
    f"POST {_CLUSTER}/migration_plans/{{plan_id}}:pause": Rule.OPERATE,
    f"POST {_CLUSTER}/migration_plans/{{plan_id}}:resume": Rule.OPERATE,
    f"POST {_CLUSTER}/migration_plans/{{plan_id}}:cancel": Rule.OPERATE,
    f"PUT {_CLUSTER}/migration_plans/{{plan_id}}/moves/{{move_id}}/report": Rule.REPORT_MOVE,
}

READERS = frozenset({Rule.LISTING, Rule.READ, Rule.METRICS, Rule.READ_BY_NODES, Rule.READ_BY_NODE})
NODES = frozenset({Rule.LISTING, Rule.READ_BY_NODES, Rule.READ_BY_NODE, Rule.REPORT, Rule.REPORT_MOVE})
_OWN = frozenset({Rule.READ_BY_NODE, Rule.REPORT})

ROLES: Mapping[Rule, tuple[Role, ...]] = {
    rule: (
        Role.OPERATOR,
        *([Role.READER] if rule in READERS else []),
        *([Role.NODE] if rule in NODES else []),
    )
    for rule in Rule
    if rule is not Rule.OPEN
}
"""Whose tokens each takes."""


def rule_of(method: str, template: str) -> Rule:
    """KeyError for a route that the table lacks."""
    return RULES[f"{method} {template}"]


def require(rule: Rule, principal: Principal, cluster_id: str | None, node_id: str | None) -> None:
    """`Forbidden`, in words that name what is missing. The ids are those of the path, None where it has none.

    A rule for the node that makes a move is half of it: the path names no node, so whoever takes the report
    in has to look whose move it is.
    """
    if principal.cluster_id is not None and principal.cluster_id != cluster_id and rule is not Rule.LISTING:
        if cluster_id is None:
            raise _forbidden("this needs a token of all clusters, yours is of one", "OTHER_CLUSTER")
        raise _forbidden("the token is of another cluster", "OTHER_CLUSTER")
    allowed = ROLES[rule]
    if principal.role not in allowed:
        named = " or ".join(role.value for role in allowed)
        raise _forbidden(f"this needs a token of the role {named}, yours is {principal.role.value}", "ROLE")
    if principal.role is Role.NODE and rule in _OWN and principal.node_id != node_id:
        raise _forbidden("the token is of another node", "OTHER_NODE")


def _forbidden(detail: str, code: str) -> Forbidden:
    return Forbidden(detail, errors=[FieldError("header:Authorization", detail, code)])
