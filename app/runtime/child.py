"""Waiting for a child process without blocking the event loop."""

import asyncio
import os
import subprocess
import sys


async def ended(process: subprocess.Popen[bytes]) -> int:
    """Wait until the process has ended; its exit status, negative for a signal."""
    if process.poll() is not None:
        return process.returncode
    if sys.platform != "linux":
        return await asyncio.to_thread(process.wait)
    done = asyncio.Event()
    descriptor = os.pidfd_open(process.pid)
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, done.set)
    try:
        await done.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    return process.wait()


async def ended_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether the process ended before the time was over."""
    try:
        await asyncio.wait_for(ended(process), max(0.0, seconds))
    except TimeoutError:
        return False
    return True
