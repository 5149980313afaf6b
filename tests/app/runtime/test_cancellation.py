"""Tasks end for certain, whatever they make of it."""

import asyncio
import gc

import pytest

from app.runtime.cancellation import end

pytestmark = pytest.mark.anyio


async def test_a_task_that_swallows_a_cancellation_is_cancelled_again() -> None:
    """A library may take the first one for its own."""
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed == 2:
                    raise

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    await end(task)
    assert task.cancelled()
    assert swallowed == 2


async def test_what_a_given_up_task_raised_is_no_report_of_its_own() -> None:
    """Nobody awaits it any more; who wants to know can still ask."""
    reported: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    async def failing() -> None:
        raise RuntimeError("solver closed")

    task = asyncio.create_task(failing())
    await asyncio.sleep(0)
    await end(task)
    assert str(task.exception()) == "solver closed"
    other = asyncio.create_task(failing())
    await asyncio.sleep(0)
    await end(other)
    del other
    gc.collect()
    assert reported == []
