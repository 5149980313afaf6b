"""Every route of the API: one line per resource."""

from fastapi import FastAPI

from app.analysis import endpoints as analysis
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
from app.telemetry import endpoints as telemetry

FRAGMENTS: tuple[Fragment, ...] = (
    migration_plans.openapi,
    nodes.openapi,
    placements.openapi,
    telemetry.openapi,
)
"""What the plain routes are described by."""


PLAIN = (
    *nodes.routes,
    *telemetry.routes,
    *placements.routes,
    *migration_plans.routes,
    *console.routes,
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
)


def include_routes(app: FastAPI) -> None:
    """Make `app` answer them all, and describe them in its contract."""
    app.router.routes.extend(PLAIN)
    for router in ROUTERS:
        app.include_router(router)
    # What FastAPI makes of a router tells no more which routes are in it.
    app.state.routes = (*PLAIN, *(route for router in ROUTERS for route in router.routes))
    describe(app, FRAGMENTS)
