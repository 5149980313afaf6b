"""A real API process on this test process's server."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from app.storage.embedded import EmbeddedServer

INTERVALS = {
    "MOEPLACE_HEARTBEAT_INTERVAL_SECONDS": "0.2",
    "MOEPLACE_TELEMETRY_INTERVAL_SECONDS": "0.2",
    "MOEPLACE_LOG_LEVEL": "warning",
}


@pytest.fixture(scope="module")
def api_url(redis_server: EmbeddedServer) -> Iterator[str]:
    """URL of `moeplace api` with short intervals; there is no worker unless a test plays it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "app", "api", "--redis-url", redis_server.url, "--port", "0"],
        env={**os.environ, **INTERVALS},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("moeplace api is listening on http://"), line
        yield line.rsplit(" ", 1)[1].strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
