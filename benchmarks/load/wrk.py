"""wrk, the load generator: Debian's package `wrk`, installed by hand."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


class WrkMissing(RuntimeError):
    """There is no wrk."""


@dataclass(frozen=True)
class Load:
    """What wrk saw. refused: answers other than 2xx and 3xx; broken: connections and time-outs."""

    requests: int
    seconds: float
    refused: int
    broken: int
    p50_ms: float
    p99_ms: float

    @property
    def rate(self) -> float:
        return self.requests / self.seconds

    @property
    def accepted(self) -> int:
        return self.requests - self.refused


# The place of the sequence number is overwritten in each request; `nodes` numbers stand in for NODE.
_POST = """
local parts, nodes, sequence = {}, %(nodes)d, %(first)d
local file = io.open("%(body)s", "rb")
local body = file:read("*a")
file:close()
local before, after = body:sub(1, %(at)d), body:sub(%(at)d + %(width)d + 1)
local heads = {}
for i = 0, nodes - 1 do
  local path = string.format("%(path)s", i)
  heads[i] = "POST " .. path .. " HTTP/1.1\\r\\nHost: localhost\\r\\nContent-Type: %(type)s\\r\\n%(extra)s"
    .. "Content-Length: " .. #body .. "\\r\\n\\r\\n" .. before
end
local floor, char = math.floor, string.char
local function number(n)
  if %(width)d == 4 then
    return char(floor(n / 16777216) %% 256, floor(n / 65536) %% 256, floor(n / 256) %% 256, n %% 256)
  end
  return string.format("%%d", n)
end
request = function()
  sequence = sequence + 1
  return heads[sequence %% nodes] .. number(sequence) .. after
end
"""

# Each connection waits as long as makes all of them together send `rate` requests a second, more or less.
_PACE = """
delay = function()
  return math.random(0, %(most_ms)d)
end
"""

_GET = """
wrk.path = "%(path)s"
%(headers)s
"""

_DONE = """
done = function(summary, latency, requests)
  io.write(string.format(
    '{"requests":%d,"seconds":%.6f,"refused":%d,"broken":%d,"p50_ms":%.4f,"p99_ms":%.4f}\\n',
    summary.requests, summary.duration / 1e6, summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
"""


def post(
    url: str,
    path: str,
    body: bytes,
    sequence: int,
    *,
    media_type: str,
    first: int,
    nodes: int,
    seconds: float,
    connections: int,
    headers: Mapping[str, str] | None = None,
    rate: float | None = None,
    niceness: int = 0,
) -> Load:
    """Post `body` again and again, with the next number each time where it has `sequence`; `path` has a
    %04d for the node. `rate`: requests a second of all connections together, at most; None: as many as are
    answered."""
    binary = b"\xce" + sequence.to_bytes(4, "big")
    at, width = (body.find(binary) + 1, 4) if binary in body else (body.find(str(sequence).encode()), 10)
    with tempfile.TemporaryDirectory(prefix="moeplace-load-") as folder:
        file = Path(folder) / "body"
        file.write_bytes(body)
        script = _POST % {
            "nodes": nodes,
            "first": first,
            "body": file,
            "at": at,
            "width": width,
            "path": path,
            "type": media_type,
            "extra": _lines(headers),
        }
        if rate is not None:
            script += _PACE % {"most_ms": 2e3 * connections / rate}
        return _run(url, script, seconds, connections, niceness)


def get(url: str, path: str, *, seconds: float, connections: int, headers: Mapping[str, str]) -> Load:
    lines = [f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in headers.items()]
    return _run(url, _GET % {"path": path, "headers": "\n".join(lines)}, seconds, connections)


def _lines(headers: Mapping[str, str] | None) -> str:
    return "".join(f"{name}: {value}\\r\\n".replace('"', '\\"') for name, value in (headers or {}).items())


def _run(url: str, script: str, seconds: float, connections: int, niceness: int = 0) -> Load:
    if shutil.which("wrk") is None:
        raise WrkMissing("wrk is not installed: apt-get install wrk")
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script + _DONE)
        file.flush()
        command = [
            "nice",
            f"-n{niceness}",
            "wrk",
            "-t1",
            f"-c{connections}",
            f"-d{seconds:.0f}s",
            "--timeout",
            "10s",
            "-s",
            file.name,
            url,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return Load(**json.loads(done.stdout.strip().splitlines()[-1]))
