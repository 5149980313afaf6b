"""The API in this process, on the real server of the tests."""

from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient
from redis.asyncio import Redis

from app.config import Settings
from app.main import create_app


@pytest.fixture
async def application(shared_url: str, redis: Redis) -> AsyncIterator[FastAPI]:
    """The application, started on the emptied server; needs `@pytest.mark.anyio`."""
    app = create_app(Settings(redis_url=shared_url))
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
async def api(application: FastAPI) -> AsyncIterator[AsyncClient]:
    """A client of the application."""
    transport = ASGITransport(application, raise_app_exceptions=False)
    async with AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client
