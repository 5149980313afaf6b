"""Two clusters with tokens of every kind, and the application that asks for them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient
from pydantic import SecretStr

from app.config import Settings
from app.main import create_app

OPERATOR = "an operator's secret that nobody will guess".replace(" ", "-")
JSON = {"Content-Type": "application/json"}

TOKENS: dict[str, tuple[str | None, dict[str, Any]]] = {
    "operator": (None, {"role": "OPERATOR"}),
    "reader": (None, {"role": "READER"}),
    "east operator": ("east", {"role": "OPERATOR"}),
    "east reader": ("east", {"role": "READER"}),
    "east node a": ("east", {"role": "NODE", "node_id": "a"}),
    "east node b": ("east", {"role": "NODE", "node_id": "b"}),
    "west operator": ("west", {"role": "OPERATOR"}),
    "west reader": ("west", {"role": "READER"}),
    "west node a": ("west", {"role": "NODE", "node_id": "a"}),
}
"""Name -> cluster, and what is asked for."""


@asynccontextmanager
async def started(redis_url: str, **settings: Any) -> AsyncIterator[FastAPI]:
    """An API process, as far as Redis can tell; it asks for tokens."""
    app = create_app(Settings(redis_url=redis_url, operator_token=SecretStr(OPERATOR), **settings))
    async with app.router.lifespan_context(app):
        yield app


def client_of(app: FastAPI, token: str | None = None, *, address: str = "192.0.2.1") -> AsyncClient:
    transport = ASGITransport(app, raise_app_exceptions=False, client=(address, 1234))
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers)


async def issue(app: FastAPI, cluster: str | None, wanted: dict[str, Any]) -> dict[str, Any]:
    """The answer: the token and what is public of it."""
    path = "/v1/tokens" if cluster is None else f"/v1/clusters/{cluster}/tokens"
    async with client_of(app, OPERATOR) as client:
        answer = await client.post(path, json=wanted)
    assert answer.status_code == 201, answer.text
    issued: dict[str, Any] = answer.json()
    return issued
