"""Every route of the API: one line per resource."""

from fastapi import FastAPI

from app.clusters import endpoints as clusters
from app.health import endpoints as health
from app.http.openapi import Fragment, describe
from app.models import endpoints as models

FRAGMENTS: tuple[Fragment, ...] = ()
"""What the plain routes are described by."""


def include_routes(app: FastAPI) -> None:
    """Routes are looked up in this order: those called most come first."""
    app.include_router(health.router)
    app.include_router(clusters.router)
    app.include_router(models.router)
    describe(app, FRAGMENTS)
