"""Every route of the API: one line per resource."""

from fastapi import FastAPI

from app.health import endpoints as health


def include_routes(app: FastAPI) -> None:
    """Routes are looked up in this order: those called most come first."""
    app.include_router(health.router)
