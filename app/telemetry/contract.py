"""The telemetry route as the contract describes it."""

from typing import Any

from app.http.openapi import CLUSTER_ID, NODE_ID, answer, operation, problems
from app.schema import ID_PATTERN, MAX_EXACT
from app.telemetry.checked_routes import MAX_K
from app.telemetry.packed import MAX_COUNT, NO_EXPERT
from app.telemetry.schemas import TelemetryAnswer

JSON = "application/json"
NDJSON = "application/x-ndjson"
MSGPACK = "application/msgpack"

PATH = "/v1/clusters/{cluster_id}/nodes/{node_id}/telemetry"


def _integers(maximum: int, packed: str) -> dict[str, Any]:
    return {
        "anyOf": [
            {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": maximum}},
            {
                "type": "string",
                "contentEncoding": "base64",
                "description": f"{packed}, little-endian; in MessagePack as binary.",
            },
        ]
    }


def _object(required: list[str], properties: dict[str, Any], description: str) -> dict[str, Any]:
    return {
        "type": "object",
        "description": description,
        "additionalProperties": False,
        "required": required,
        "properties": properties,
    }


_INTEGER_IDS = _integers(NO_EXPERT - 1, "uint16[n]")

COMPONENTS = {
    "TelemetryWindow": _object(
        ["model_id", "instance_uid", "sequence_number", "window", "tokens", "layers"],
        {
            "model_id": {"type": "string", "pattern": ID_PATTERN},
            "instance_uid": {"type": "string", "description": "As registered by the node."},
            "sequence_number": {
                "type": "integer",
                "minimum": 1,
                "maximum": MAX_EXACT,
                "description": "Different for each window of an instance, and rising; a repeated "
                "window counts once.",
            },
            "window": _object(
                ["start_at", "end_at"],
                {
                    "start_at": {"type": "string", "format": "date-time"},
                    "end_at": {"type": "string", "format": "date-time"},
                },
                "At most an hour long. It must have ended at most 10 minutes ago.",
            ),
            "tokens": {"type": "integer", "minimum": 0, "maximum": MAX_COUNT},
            "layers": {"type": "array", "items": {"$ref": "#/components/schemas/TelemetryLayer"}},
            "routes": {"type": "array", "items": {"$ref": "#/components/schemas/TelemetryRoutes"}},
            "step_time_seconds": {
                "deprecated": True,
                "description": "Accepted and ignored: earlier versions stored it and nothing used it.",
            },
        },
        "What one model's tokens activated at one node in one window of time.",
    ),
    "TelemetryLayer": _object(
        ["layer", "counts"],
        {
            "layer": {"type": "integer"},
            "counts": _integers(MAX_COUNT, "uint32[n]"),
            "expert_ids": {
                "anyOf": [*_INTEGER_IDS["anyOf"], {"type": "null"}],
                "description": "Experts that the counts are of; null: one count per expert of the "
                "layer, in order.",
            },
        },
        "Activations per expert.",
    ),
    "TelemetryRoutes": _object(
        ["layer", "experts"],
        {
            "layer": {"type": "integer"},
            "experts": {
                "anyOf": [
                    {
                        "type": "array",
                        "items": {
                            "type": "array",
                            "minItems": 1,
                            "maxItems": MAX_K,
                            "items": {"type": "integer", "minimum": 0, "maximum": NO_EXPERT - 1},
                        },
                    },
                    {
                        "type": "string",
                        "contentEncoding": "base64",
                        "description": "uint16[S * k], little-endian, 65535 after the last id of a route "
                        "of less than k; in MessagePack as binary.",
                    },
                ]
            },
            "k": {
                "anyOf": [{"type": "integer", "minimum": 1, "maximum": MAX_K}, {"type": "null"}],
                "description": "Ids per packed route; null: the layer's top_k.",
            },
            "weights": {
                "anyOf": [
                    {"type": "array", "items": {"type": "number", "minimum": 0}},
                    {
                        "type": "string",
                        "contentEncoding": "base64",
                        "description": "float32[S], little-endian; in MessagePack as binary.",
                    },
                    {"type": "null"},
                ],
                "description": "Tokens each route stands for; null: 1 each.",
            },
        },
        "Sampled Top-K sets of tokens, one per route.",
    ),
}

EXAMPLE = {
    "model_id": "tiny-moe",
    "instance_uid": "node-a-1",
    "sequence_number": 1,
    "window": {"start_at": "2026-11-22T06:00:00Z", "end_at": "2026-11-22T06:00:10Z"},
    "tokens": 4,
    "layers": [{"layer": 0, "expert_ids": [3, 7, 12], "counts": [4, 3, 1]}],
    "routes": [{"layer": 0, "experts": [[3, 7], [3, 12]], "weights": [3, 1]}],
}

_WINDOW = {"$ref": "#/components/schemas/TelemetryWindow"}
_BINARY = {"type": "string", "format": "binary"}

FRAGMENT: dict[str, Any] = {
    "paths": {
        PATH: {
            "post": operation(
                "post_telemetry",
                "Post what tokens activated",
                "telemetry",
                [CLUSTER_ID, NODE_ID],
                {
                    200: answer(
                        TelemetryAnswer,
                        "The windows are in Redis. The answer names what was left out.",
                        example={"accepted_count": 1, "duplicate": False, "partial_success": None},
                    ),
                    **problems(404, reads_body=True),
                },
                description="One window, or a stream of windows: lines of JSON, or MessagePack values "
                "one after another. Bodies may be compressed with gzip or zstd. A window "
                "that is sent again with the same instance_uid and sequence_number is "
                "counted once. docs/telemetry.md documents every byte.",
                request={
                    "requestBody": {
                        "required": True,
                        "content": {
                            JSON: {"schema": _WINDOW, "examples": {"window": {"value": EXAMPLE}}},
                            NDJSON: {"schema": {"type": "string"}},
                            MSGPACK: {"schema": _BINARY},
                        },
                    }
                },
            )
        }
    },
    "components": {"schemas": COMPONENTS},
}
