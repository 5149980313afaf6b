"""What image, compose file and chart start is started here, with ports and addresses of this machine."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence

import httpx
import pytest

from tests.deploy.test_compose import ours
from tests.deploy.test_image import last_stage
from tests.ports import free_port

START_SECONDS = 60.0


def here(command: Sequence[str], ports: dict[int, int]) -> list[str]:
    """The command with this machine's ports and loopback in place of the container's."""
    replaced = []
    for part in command:
        for theirs, our in ports.items():
            part = part.replace(f":{theirs}/", f":{our}/")
            part = str(our) if part == str(theirs) else part
        replaced.append("127.0.0.1" if part == "0.0.0.0" else part)
    return replaced


def image_health_check() -> list[str]:
    (words,) = (words for name, words in last_stage() if name == "HEALTHCHECK")
    command: list[str] = json.loads(words[words.index("CMD") + 3 :])
    return command


@pytest.mark.parametrize("name", ["api", "worker"])
def test_it_starts_and_its_health_check_agrees(name: str, redis_url: str) -> None:
    """Before the process listens its check fails, afterwards it succeeds; SIGTERM ends it with status 0."""
    service = ours()[name]
    ports = {8080: free_port(), 9100: free_port()}
    check = service["healthcheck"]["test"][1:] if "healthcheck" in service else image_health_check()
    check = [sys.executable, *here(check, ports)[1:]]
    environment = {**os.environ, **service["environment"], "MOEPLACE_REDIS_URL": redis_url}
    assert subprocess.run(check, stderr=subprocess.DEVNULL, check=False, timeout=30).returncode != 0
    command = [sys.executable, "-m", "app", *here(service["command"], ports)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + START_SECONDS
            while subprocess.run(check, stderr=subprocess.DEVNULL, check=False, timeout=30).returncode != 0:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.2)
            port = ports[8080 if name == "api" else 9100]
            assert httpx.get(f"http://127.0.0.1:{port}/metrics").is_success
            process.terminate()
            assert process.wait(20) == 0
        finally:
            process.kill()
