"""The contract: what FastAPI finds in its routes, and fragments that plain routes bring along.

Bodies and answers are described by the schemas that judge and make them (`body`, `answer`), wherever the
route is declared; they end up once each under components.
"""

import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from app.http.problem import MEDIA_TYPE, Problem
from app.schema import ID_PATTERN

JSON = "application/json"
Fragment = Mapping[str, Any]
"""`{"paths": {template: {method: operation}}}`."""

_MODEL, _MODE = "x-model", "x-mode"
_REFERENCE = "#/components/schemas/"

_MEANING = {
    400: "The request cannot be parsed.",
    404: "Resource not found.",
    408: "The body arrived too slowly.",
    409: "The state of the resource does not allow this.",
    410: "The resource was pruned.",
    412: "The resource has changed meanwhile, or exists although If-None-Match: * was sent.",
    413: "The body is too large, as sent or inflated.",
    415: "The body's type or coding is not understood.",
    422: "The request can be parsed but is not valid; `errors` has a pointer for each fault.",
    428: "The request needs If-Match.",
    429: "Too many requests are waiting.",
    500: "The service failed. The trace id leads to the cause in its log.",
    503: "The service cannot answer now.",
}
RETRY_AFTER = {
    "Retry-After": {"required": True, "description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}
}
_ALWAYS = (422, 500, 503)
_WITH_BODY = (400, 408, 413, 415)

CLUSTER_ID = {
    "name": "cluster_id",
    "in": "path",
    "required": True,
    "description": "A cluster is the fleet that one placement covers.",
    "schema": {"type": "string", "pattern": ID_PATTERN},
}
NODE_ID = {
    "name": "node_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "pattern": ID_PATTERN},
}
IF_NONE_MATCH = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "description": "The ETag of the document that the client has, in any content coding. Answered "
    "with 304 while it is the newest.",
    "schema": {"type": "string"},
}
PREFER_WAIT = {
    "name": "Prefer",
    "in": "header",
    "required": False,
    "description": "`wait=N`: hold the request for up to N <= 30 seconds until there is something new.",
    "schema": {"type": "string"},
    "example": "wait=30",
}
CONDITIONAL = [IF_NONE_MATCH, PREFER_WAIT]
ETAG = {
    "ETag": {
        "description": "uid.generation.digest, and the content coding: strong.",
        "schema": {"type": "string"},
    }
}


def schema(model: type[BaseModel], *, output: bool) -> dict[str, Any]:
    """A stand-in for `model`'s schema; `describe` puts a reference to the component there."""
    return {
        _MODEL: f"{model.__module__}:{model.__qualname__}",
        _MODE: "serialization" if output else "validation",
    }


def body(
    model: type[BaseModel], *, examples: Mapping[str, Any] | None = None, required: bool = True
) -> dict[str, Any]:
    """For `openapi_extra`, or part of a fragment's operation."""
    content: dict[str, Any] = {"schema": schema(model, output=False)}
    if examples:
        content["examples"] = {name: {"value": value} for name, value in examples.items()}
    return {"requestBody": {"required": required, "content": {JSON: content}}}


def answer(
    model: type[BaseModel], description: str, *, headers: Mapping[str, Any] | None = None, example: Any = None
) -> dict[str, Any]:
    """One entry of `responses`."""
    content: dict[str, Any] = {"schema": schema(model, output=True)}
    if example is not None:
        content["example"] = example
    found: dict[str, Any] = {"description": description, "content": {JSON: content}}
    if headers:
        found["headers"] = dict(headers)
    return found


def document_answers(
    model: type[BaseModel], description: str, *, example: Any = None
) -> dict[int | str, Any]:
    """200 and 304 of a resource served by version."""
    return {
        200: answer(model, description, headers=ETAG, example=example),
        304: {"description": "The client has the newest version.", "headers": dict(ETAG)},
    }


def problems(*statuses: int, reads_body: bool = False) -> dict[int | str, Any]:
    """Entries of `responses` for these, and for those that every route may answer."""
    wanted = sorted({*statuses, *_ALWAYS, *(_WITH_BODY if reads_body else ())})
    return {status: problem(status) for status in wanted}


def problem(status: int) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "description": _MEANING[status],
        "content": {MEDIA_TYPE: {"schema": schema(Problem, output=True)}},
    }
    if status in {429, 503}:
        entry["headers"] = RETRY_AFTER
    return entry


def operation(
    name: str,
    summary: str,
    tag: str,
    parameters: Sequence[Mapping[str, Any]],
    responses: Mapping[int | str, Any],
    *,
    description: str = "",
    request: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """An operation of a plain route."""
    found: dict[str, Any] = {
        "operationId": name,
        "summary": summary,
        "tags": [tag],
        "parameters": [dict(parameter) for parameter in parameters],
        "responses": {str(status): response for status, response in responses.items()},
    }
    if description:
        found["description"] = description
    return {**found, **(request or {})}


def describe(
    app: FastAPI, fragments: Sequence[Fragment], *, finish: Callable[[dict[str, Any]], None]
) -> None:
    """Make `app.openapi()` give the whole contract; it is put together once. `finish` adds what concerns all
    of it."""
    built: dict[str, Any] = {}

    def openapi() -> dict[str, Any]:
        if not built:
            built.update(_build(app, fragments))
            finish(built)
        return built

    app.openapi = openapi  # type: ignore[method-assign]


def _build(app: FastAPI, fragments: Sequence[Fragment]) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=app.description,
        routes=app.routes,
        tags=app.openapi_tags,
    )
    paths: dict[str, Any] = document.setdefault("paths", {})
    components: dict[str, Any] = document.setdefault("components", {})
    for fragment in fragments:
        for template, methods in fragment.get("paths", {}).items():
            paths.setdefault(template, {}).update(methods)
        for kind, entries in fragment.get("components", {}).items():
            components.setdefault(kind, {}).update(entries)
    schemas: dict[str, Any] = components.setdefault("schemas", {})
    # All at once: where what is read and what is answered differ, they are named apart (-Input, -Output).
    wanted = sorted(set(_stand_ins(paths)))
    references, defined = models_json_schema(
        [(pkgutil.resolve_name(model), mode) for model, mode in wanted], ref_template=_REFERENCE + "{model}"
    )
    schemas.update(defined["$defs"])
    named = {(model, mode): references[pkgutil.resolve_name(model), mode] for model, mode in wanted}
    document["paths"] = {template: _resolve(paths[template], named) for template in sorted(paths)}
    used = _reachable(document["paths"], schemas)
    components["schemas"] = {name: schemas[name] for name in sorted(used)}
    return document


def _stand_ins(value: Any) -> Iterator[tuple[str, JsonSchemaMode]]:
    if isinstance(value, list):
        for part in value:
            yield from _stand_ins(part)
    elif isinstance(value, dict):
        if _MODEL in value:
            yield value[_MODEL], value[_MODE]
        for part in value.values():
            yield from _stand_ins(part)


def _resolve(value: Any, named: Mapping[tuple[str, JsonSchemaMode], Any]) -> Any:
    """`value` with references instead of stand-ins."""
    if isinstance(value, list):
        return [_resolve(part, named) for part in value]
    if not isinstance(value, dict):
        return value
    if _MODEL in value:
        return named[value[_MODEL], value[_MODE]]
    return {key: _resolve(part, named) for key, part in value.items()}


def _reachable(paths: Mapping[str, Any], schemas: Mapping[str, Any]) -> set[str]:
    """Names of the schemas that `paths` refer to, and those refer to."""
    found: set[str] = set()
    waiting: list[Any] = [paths]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, dict):
            waiting.extend(value.values())
            name = str(value.get("$ref", "")).removeprefix(_REFERENCE)
            if name in schemas and name not in found:
                found.add(name)
                waiting.append(schemas[name])
    return found
