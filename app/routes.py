"""Every route of the API: one line per resource."""

from functools import partial

from fastapi import Depends, FastAPI
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Route

from app.access.contract import secure
from app.access.guard import admit, authorise, guarded
from app.access.rules import rule_of
from app.analysis import endpoints as analysis
from app.audit import endpoints as audit
from app.audit.middleware import BeginAudit, audited
from app.clusters import endpoints as clusters
from app.console import endpoints as console
from app.health import endpoints as health
from app.http.openapi import Fragment, describe
from app.migration_plans import endpoints as migration_plans
from app.models import endpoints as models
from app.network import endpoints as network
from app.nodes import endpoints as nodes
from app.optimizations import endpoints as optimizations
from app.placements import endpoints as placements
from app.reference import endpoints as reference
from app.telemetry import endpoints as telemetry
from app.tokens import endpoints as tokens

FRAGMENTS: tuple[Fragment, ...] = (
    migration_plans.openapi,
    nodes.openapi,
    placements.openapi,
    telemetry.openapi,
)
"""What the plain routes are described by."""


FAST = tuple(
    (route, method, partial(admit, rule=rule_of(method, route.path)))
    for route in (*telemetry.routes, *placements.polled, *migration_plans.polled)
    for method in sorted((route.methods or set()) - {"HEAD"})
)
"""Found before all others, each with its authorisation; what they answer is compressed if that pays."""

PLAIN = tuple(
    guarded(route, *([Middleware(BeginAudit)] if route.methods == {"PUT"} else []))
    for route in (
        *nodes.routes,
        *telemetry.routes,
        *placements.routes,
        *migration_plans.routes,
        *console.routes,
        *reference.routes,
    )
)
"""Looked up first, in this order: they are called most."""

ROUTERS = (
    health.router,
    clusters.router,
    models.router,
    nodes.router,
    network.router,
    placements.router,
    optimizations.router,
    optimizations.algorithms_router,
    migration_plans.router,
    analysis.router,
    tokens.router,
    audit.router,
)


def include_routes(app: FastAPI) -> None:
    """Make `app` answer them all, and describe them in its contract."""
    app.router.routes.extend(PLAIN)
    for router in ROUTERS:
        for route in router.routes:
            _require_rule(route)
        app.include_router(router, dependencies=[Depends(authorise), Depends(audited)])
    # What FastAPI makes of a router tells no more which routes are in it.
    app.state.routes = (*PLAIN, *(route for router in ROUTERS for route in router.routes))
    describe(app, FRAGMENTS, finish=secure)


def _require_rule(route: BaseRoute) -> None:
    """KeyError for a route that the table of rules lacks: it would refuse every request."""
    assert isinstance(route, Route)
    for method in route.methods or ():
        rule_of(method, route.path)
