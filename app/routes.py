"""Every route of the API: one line per resource."""

from fastapi import FastAPI

from app.analysis import endpoints as analysis
from app.clusters import endpoints as clusters
from app.health import endpoints as health
from app.http.openapi import Fragment, describe
from app.migration_plans import endpoints as migration_plans
from app.models import endpoints as models
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


def include_routes(app: FastAPI) -> None:
    """Routes are looked up in this order: those called most come first."""
    app.router.routes.extend(nodes.routes)
    app.router.routes.extend(telemetry.routes)
    app.router.routes.extend(placements.routes)
    app.router.routes.extend(migration_plans.routes)
    app.include_router(health.router)
    app.include_router(clusters.router)
    app.include_router(models.router)
    app.include_router(nodes.router)
    app.include_router(placements.router)
    app.include_router(optimizations.router)
    app.include_router(migration_plans.router)
    app.include_router(analysis.router)
    describe(app, FRAGMENTS)
