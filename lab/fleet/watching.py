"""Showing a run while it goes on, and noticing when one of its processes fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from lab.fleet.members import Members
from lab.fleet.run import Run
from lab.fleet.view import View
from lab.harness.failures import RunFailed
from lab.harness.observation import Observation, observe
from moeplace_agent.client import ServiceError

_Result = TypeVar("_Result")

_OBSERVE_SECONDS = 0.6
_REFRESH_SECONDS = 0.3
_SILENCE_SECONDS = 15.0


async def watched(members: Members, run: Run, view: View, work: Coroutine[Any, Any, _Result]) -> _Result:
    """The result of `work`; raises what ends it early, `RunFailed` where a process has ended."""
    seen: Observation | None = None

    async def observing() -> None:
        nonlocal seen
        heard = time.monotonic()
        while True:
            try:
                seen = await observe(members.client)
                heard = time.monotonic()
            except ServiceError as error:
                if time.monotonic() - heard > _SILENCE_SECONDS:
                    raise RunFailed(f"the service cannot be asked any more: {error}") from error
            await asyncio.sleep(_OBSERVE_SECONDS)

    async def refreshing() -> None:
        while True:
            view.refresh(members, seen, run.rows)
            await asyncio.sleep(_REFRESH_SECONDS)

    main = asyncio.ensure_future(work)
    children = [
        members.service.child,
        members.origin.lines.child,
        *(member.lines.child for member in members.nodes.values()),
    ]
    others = [
        *(asyncio.create_task(_raise_failure(child.failed())) for child in children),
        asyncio.create_task(observing()),
        asyncio.create_task(refreshing()),
    ]
    try:
        await asyncio.wait([main, *others], return_when=asyncio.FIRST_COMPLETED)
        for other in others:
            if other.done():
                other.result()
        return await main
    finally:
        for one in (main, *others):
            one.cancel()
        await asyncio.gather(main, *others, return_exceptions=True)


async def _raise_failure(failed: Coroutine[Any, Any, RunFailed]) -> None:
    raise await failed
