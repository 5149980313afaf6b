"""Requests of every operation in openapi.json: drawn from its schemas, then spoiled."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import msgspec

from benchmarks.soak.mutation import STRANGE, as_json, coded, spoiled, spoiled_bytes

MODEL = "m"
LAYERS = {0: 8, 3: 6}
NODES = ("a", "b", "c")
NODE = NODES[0]
MSGPACK, NDJSON = "application/msgpack", "application/x-ndjson"
_MEDIA_TYPES = (
    "application/json",
    MSGPACK,
    NDJSON,
    "text/plain",
    "",
    "application/json; charset=utf-16",
    "x",
)
_NUMBERS = (0, 1, 2, 3, 5, 8, 100, 1000, 10**6, 10**9)


@dataclass(frozen=True)
class Request:
    """`token`: operator, node or other. `operation`: its id in openapi.json."""

    operation: str
    method: str
    target: str
    headers: dict[str, str]
    body: bytes | None
    token: str


@dataclass
class Names:
    """What exists, so that most requests are about something."""

    cluster_id: str
    plan_id: list[str] = field(default_factory=lambda: ["p"])
    optimization_id: list[str] = field(default_factory=lambda: ["o"])
    move_id: list[str] = field(default_factory=lambda: ["m1"])
    token_id: list[str] = field(default_factory=lambda: ["t"])
    etags: list[str] = field(default_factory=lambda: ['"1"'])

    def learn(self, etag: str | None, body: bytes) -> None:
        """From an answer."""
        if etag is not None:
            self.etags = [*self.etags[-3:], etag]
        try:
            told = json.loads(body)
        except ValueError:
            return
        if isinstance(told, dict):
            for name in ("plan_id", "optimization_id", "token_id"):
                if isinstance(told.get(name), str):
                    setattr(self, name, [*getattr(self, name)[-3:], told[name]])
            for move in told.get("moves") or []:
                if isinstance(move, dict) and isinstance(move.get("move_id"), str):
                    self.move_id = [*self.move_id[-3:], move["move_id"]]


class Requests:
    """Draws requests; the same ones for the same answers and the same `rng`."""

    def __init__(self, contract: dict[str, Any], rng: random.Random) -> None:
        self._rng = rng
        self._schemas: dict[str, Any] = contract["components"]
        self.operations = [
            (path, method.upper(), operation)
            for path, methods in contract["paths"].items()
            for method, operation in methods.items()
        ]
        often = {"post_telemetry": 12, "put_node_status": 6, "post_move_reports": 3, "put_placement": 3}
        # A cluster, a model and nodes that are gone every few requests would leave nothing to ask about.
        seldom = {"delete_cluster": 0.1, "delete_model": 0.2, "drain_node": 0.3, "revoke_token": 0.3}
        self._weights = [
            {**often, **seldom}.get(operation["operationId"], 1.0) for _, _, operation in self.operations
        ]
        self._sequence = 0

    def draw(self, names: Names) -> Request:
        rng = self._rng
        path, method, operation = rng.choices(self.operations, self._weights)[0]
        name = operation["operationId"]
        headers: dict[str, str] = {}
        query: list[tuple[str, str]] = []
        for parameter in operation.get("parameters", []):
            value = self._parameter(parameter, names)
            if parameter["in"] == "path":
                path = path.replace(f"{{{parameter['name']}}}", _quoted(value))
            elif rng.random() < 0.5:
                if parameter["in"] == "query":
                    query.append((parameter["name"], value))
                else:
                    headers[parameter["name"]] = value
        if rng.random() < 0.03:
            query.append((rng.choice(("x", "limit", "")), rng.choice(("", "1", "\x00", "é"))))
        target = path
        if query:
            target += "?" + "&".join(f"{_quoted(key)}={_quoted(value)}" for key, value in query)
        body: bytes | None = None
        if "requestBody" in operation or rng.random() < 0.02:
            body, headers["Content-Type"] = self._body(operation, names)
            if rng.random() < 0.05:
                body, headers["Content-Encoding"] = coded(body, rng)
        if rng.random() < 0.03:
            headers["Accept"] = rng.choice(("text/html", "*/*;q=0", "x", "application/json;q=nan"))
        if rng.random() < 0.05:
            headers["Accept-Encoding"] = rng.choice(("gzip", "br", "gzip;q=0", "*;q=x", "zstd, gzip;q=0.5"))
        return Request(name, method, target, _sendable(headers), body, self._token(name))

    def _token(self, operation: str) -> str:
        of_nodes = operation in ("post_telemetry", "put_node_status", "post_move_reports", "put_move_report")
        weights = (0.25, 0.7, 0.05) if of_nodes else (0.8, 0.15, 0.05)
        return self._rng.choices(("operator", "node", "other"), weights)[0]

    def _parameter(self, parameter: dict[str, Any], names: Names) -> str:
        rng = self._rng
        name = parameter["name"]
        strange = rng.random() < (0.08 if name == "cluster_id" else 0.15)
        if name == "Prefer":
            return rng.choice(
                ("wait=0", "wait=0", "wait=1", "wait=-1", "wait=x", "wait", "respond-async, wait=0")
            )
        if strange:
            return str(rng.choice(STRANGE)) or "-"
        if name in ("If-Match", "If-None-Match"):
            return rng.choice([*names.etags, "*", '"x"', 'W/"1"', "x", '"a", "b"'])
        known = {
            "cluster_id": [names.cluster_id],
            "model_id": [MODEL],
            "node_id": [NODE, NODE, *NODES],
            "layer": ["0", "3"],
            "generation": ["1", "2", "3"],
            "limit": ["1", "100"],
        }
        choices = known.get(name) or getattr(names, name, None)
        if choices:
            return str(rng.choice(choices))
        return str(self._value(parameter.get("schema", {}), name, 0))

    def _body(self, operation: dict[str, Any], names: Names) -> tuple[bytes, str]:
        rng = self._rng
        content = operation.get("requestBody", {}).get("content", {"application/json": {}})
        media_type = rng.choice(list(content))
        given = content[media_type]
        examples = [example["value"] for example in given.get("examples", {}).values() if "value" in example]
        if operation["operationId"] == "post_telemetry":
            media_type, value = rng.choice((*content, MSGPACK)), self._window()
        elif examples and rng.random() < 0.3:
            value = rng.choice(examples)
        else:
            value = self._value(given.get("schema", {}), "", 0)
        many = media_type in (MSGPACK, NDJSON) and rng.random() < 0.3
        documents = [value, *(self._window() for _ in range(3))] if many else [value]
        if rng.random() < 0.75:
            at = rng.randrange(len(documents))
            documents[at] = spoiled(documents[at], rng)
        body = (b"\n" if media_type == NDJSON else b"").join(
            self._encoded(document, media_type) for document in documents
        )
        if rng.random() < 0.12:
            body = spoiled_bytes(body, rng)
        return body, rng.choice(_MEDIA_TYPES) if rng.random() < 0.03 else media_type

    def _encoded(self, value: Any, media_type: str) -> bytes:
        if media_type == MSGPACK:
            try:
                return msgspec.msgpack.encode(value)
            except (OverflowError, UnicodeEncodeError, ValueError, TypeError):
                pass
        return as_json(value, self._rng)

    def _window(self) -> dict[str, Any]:
        """A right one, in one of the forms that documents allow."""
        rng = self._rng
        self._sequence += 1
        end = datetime.now(UTC)
        layers: list[dict[str, Any]] = []
        for layer, experts in LAYERS.items():
            if rng.random() < 0.5:
                layers.append({"layer": layer, "counts": [rng.randrange(1000) for _ in range(experts)]})
            else:
                ids = rng.sample(range(experts), rng.randint(1, experts))
                layers.append({"layer": layer, "expert_ids": ids, "counts": [rng.randrange(9) for _ in ids]})
        routes = [rng.sample(range(8), 2) for _ in range(rng.randint(1, 4))]
        return {
            "model_id": MODEL,
            "instance_uid": f"{NODE}-1",
            "sequence_number": self._sequence,
            "window": {"start_at": (end - timedelta(seconds=5)).isoformat(), "end_at": end.isoformat()},
            "tokens": rng.randrange(100_000),
            "layers": layers,
            "routes": [{"layer": 0, "experts": routes, "weights": [1.0] * len(routes)}],
        }

    def _value(self, schema: dict[str, Any], name: str, depth: int) -> Any:
        """By a schema, with most of what is optional."""
        rng = self._rng
        while "$ref" in schema:
            schema = self._schemas["schemas"][schema["$ref"].rpartition("/")[2]]
        for alternatives in ("anyOf", "oneOf"):
            if alternatives in schema:
                return self._value(rng.choice(schema[alternatives]), name, depth)
        if "enum" in schema:
            return rng.choice(schema["enum"])
        if "const" in schema:
            return schema["const"]
        kind = schema.get("type")
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            least = schema.get("minItems", 0)
            count = rng.randint(least, max(least, min(schema.get("maxItems", 3), 3)))
            return [self._value(schema.get("items", {}), name, depth + 1) for _ in range(count)]
        if kind in ("integer", "number"):
            return self._number(schema, kind)
        if kind == "boolean":
            return rng.random() < 0.5
        if kind == "string":
            return self._string(schema, name)
        return None

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        rng = self._rng
        required = schema.get("required", [])
        found = {
            key: self._value(inner, key, depth + 1)
            for key, inner in schema.get("properties", {}).items()
            if key in required or rng.random() < (0.6 if depth < 4 else 0.2)
        }
        inner = schema.get("additionalProperties")
        if isinstance(inner, dict):
            found |= {key: self._value(inner, key, depth + 1) for key in rng.sample(NODES, rng.randint(0, 3))}
        return found

    def _number(self, schema: dict[str, Any], kind: str) -> int | float:
        rng = self._rng
        least = schema.get("minimum", schema.get("exclusiveMinimum", 0))
        most = schema.get("maximum", schema.get("exclusiveMaximum", 10**12))
        drawn = rng.choice(
            (least, most, rng.uniform(least, most), *(n for n in _NUMBERS if least <= n <= most))
        )
        return int(drawn) if kind == "integer" else float(drawn)

    def _string(self, schema: dict[str, Any], name: str) -> str:
        rng = self._rng
        if schema.get("format") == "date-time":
            return (datetime.now(UTC) + timedelta(seconds=rng.choice((0, -5, 5, -1e6, 1e6)))).isoformat()
        if "url" in name:
            return rng.choice(("http://127.0.0.1:1", "https://node.example:9000/x", "http://[::1]:80"))
        if "digest" in name:
            return rng.choice(("0" * 64, rng.randbytes(32).hex()))
        known = {"model_id": (MODEL,), "node_id": NODES, "instance_uid": (f"{NODE}-1",)}
        return rng.choice((*known.get(name, ("x", "gpu0", "a.b-c_1")),))


def _quoted(text: str) -> str:
    return quote(text, safe="", errors="surrogatepass")


def _sendable(headers: dict[str, str]) -> dict[str, str]:
    """Without line ends and what Latin-1 does not have, which no client would let through."""
    return {
        name: value.replace("\r", "").replace("\n", "").encode("latin-1", "replace").decode("latin-1")
        for name, value in headers.items()
    }
