"""An engine in another process on the same host, told over HTTP.

    POST {hooks_url}/experts/ready  {model_id, layer, expert, device_id, path}   the file is whole: load it
    POST {hooks_url}/experts/evict  {model_id, layer, expert, device_id}         nobody is sent here for it
    POST {hooks_url}/routes         an assignment, as GET /assignment gives it   route by it from now on

Any answer of 2xx says that it is done; anything else, or none, fails the move (or the assignment).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import msgspec

from moeplace_agent.connecting import fault_of
from moeplace_agent.engine import Engine, EngineFailed
from moeplace_agent.holdings import ExpertKey
from moeplace_agent.routing import RoutingTable


class RemoteEngine(Engine):
    """Close it with `aclose`."""

    def __init__(self, hooks_url: str, *, timeout_seconds: float) -> None:
        self._url = hooks_url.rstrip("/")
        # Never through a proxy: it is on this host.
        self._http = httpx.AsyncClient(timeout=httpx.Timeout(timeout_seconds, connect=5.0), trust_env=False)

    async def aclose(self) -> None:
        await self._http.aclose()

    async def on_expert_ready(self, key: ExpertKey, file: Path, device_id: str) -> None:
        await self._tell("/experts/ready", {**key._asdict(), "device_id": device_id, "path": str(file)})

    async def before_evict(self, key: ExpertKey, device_id: str) -> None:
        await self._tell("/experts/evict", {**key._asdict(), "device_id": device_id})

    async def on_routes(self, routes: RoutingTable) -> None:
        await self._tell("/routes", routes.assignment)

    async def _tell(self, path: str, body: Any) -> None:
        url = self._url + path
        try:
            response = await self._http.post(
                url, content=msgspec.json.encode(body), headers={"Content-Type": "application/json"}
            )
        except httpx.HTTPError as error:
            raise EngineFailed(f"{url}: {fault_of(error, httpx.URL(url)).words}") from None
        if not response.is_success:
            raise EngineFailed(f"{url} answered {response.status_code}: {response.text[:200].strip()}")
