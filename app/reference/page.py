"""The contract as one page of HTML: every operation, and every schema it refers to.

The page is made here and runs no script. So it needs nothing from elsewhere, and nothing in it can reach what
the console keeps in the browser.
"""

import json
from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterator, Mapping
from hashlib import sha256
from html import escape
from importlib.resources import files
from typing import Any

STYLE = (files("app.reference") / "page.css").read_text("utf-8")

POLICY = (
    f"default-src 'none'; style-src 'sha256-{b64encode(sha256(STYLE.encode()).digest()).decode()}'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox"
)
"""The one style sheet is in the page. `sandbox` gives the page an origin of its own."""

_SCHEMAS = "#/components/schemas/"
_LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "more than",
    "maximum": "at most",
    "exclusiveMaximum": "less than",
    "minLength": "characters, at least",
    "maxLength": "characters, at most",
    "minItems": "elements, at least",
    "maxItems": "elements, at most",
    "maxProperties": "entries, at most",
    "pattern": "matches",
}


def render(contract: Mapping[str, Any]) -> str:
    """HTML of an OpenAPI 3.1 document; it loads nothing."""
    info = contract["info"]
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for template, methods in contract["paths"].items():
        for method, operation in methods.items():
            tag = (operation.get("tags") or ["other"])[0]
            groups[tag].append(_operation(contract, method, template, operation))
    links = " ".join(f'<a href="#{_id(tag)}">{_text(tag)}</a>' for tag in groups)
    sections = "".join(
        f'<section id="{_id(tag)}"><h2>{_text(tag)}</h2>{"".join(found)}</section>'
        for tag, found in groups.items()
    )
    schemas = "".join(
        _schema(name, schema) for name, schema in contract["components"].get("schemas", {}).items()
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{_text(info["title"])} API</title>'
        f"<style>{STYLE}</style></head>"
        f"<body><header><h1>{_text(info['title'])} {_text(info['version'])}</h1>"
        f"{_paragraphs(info.get('description', ''))}"
        '<p>For programs: <a href="openapi.json">openapi.json</a>. <a href="./">Console</a></p>'
        f'<nav>{links} <a href="#schemas">schemas</a></nav></header><main>{sections}'
        f'<section id="schemas"><h2>schemas</h2>{schemas}</section></main></body></html>'
    )


def _operation(contract: Mapping[str, Any], method: str, template: str, operation: Mapping[str, Any]) -> str:
    roles = sorted({role for entry in operation.get("security", ()) for role in next(iter(entry.values()))})
    parts = [_paragraphs(operation.get("description", ""))]
    parts.append(f"<p>Tokens: {_text(', '.join(roles)) if roles else 'none needed'}</p>")
    parameters = operation.get("parameters", ())
    if parameters:
        rows = "".join(
            f"<tr><td><code>{_text(it['name'])}</code></td><td>{_text(it['in'])}</td>"
            f"<td>{_type(it.get('schema', {}))}</td><td>{_text(it.get('description', ''))}</td></tr>"
            for it in parameters
        )
        parts.append(f"<h4>Parameters</h4><table>{rows}</table>")
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        parts.append(f"<h4>Body: {_text(media_type)}</h4><p>{_type(content.get('schema', {}))}</p>")
        parts += [_example(name, example) for name, example in _examples(content)]
    parts.append("<h4>Answers</h4><table>")
    for status, given in operation["responses"].items():
        response = _resolve(contract, given)
        types = [_type(it["schema"]) for it in response.get("content", {}).values() if "schema" in it]
        parts.append(
            f"<tr><td>{_text(str(status))}</td><td>{_text(response.get('description', ''))}</td>"
            f"<td>{' '.join(types)}</td></tr>"
        )
    parts.append("</table>")
    return (
        f'<details id="{_text(operation["operationId"])}"><summary>'
        f"<b>{_text(method.upper())}</b> <code>{_text(template)}</code> "
        f"{_text(operation.get('summary', ''))}</summary>{''.join(parts)}</details>"
    )


def _examples(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    if "example" in content:
        yield "Example", content["example"]
    for name, example in content.get("examples", {}).items():
        yield f"Example: {name}", example.get("value")


def _example(name: str, value: Any) -> str:
    return f"<p>{_text(name)}</p><pre>{_text(json.dumps(value, indent=2))}</pre>"


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    required = set(schema.get("required", ()))
    rows = "".join(
        f"<tr><td><code>{_text(field)}</code>{' *' if field in required else ''}</td><td>{_type(about)}</td>"
        f"<td>{_text(about.get('description', ''))}{_default(about)}</td></tr>"
        for field, about in schema.get("properties", {}).items()
    )
    fields = f"<table>{rows}</table>" if rows else f"<p>{_type(schema)}</p>"
    return (
        f'<details id="{_id("schema " + name)}"><summary><code>{_text(name)}</code></summary>'
        f"{_paragraphs(schema.get('description', ''))}{fields}</details>"
    )


def _default(about: Mapping[str, Any]) -> str:
    if "default" not in about:
        return ""
    return f" <span>Default: <code>{_text(json.dumps(about['default']))}</code></span>"


def _type(schema: Mapping[str, Any]) -> str:
    """Words for a schema, as HTML."""
    if "$ref" in schema:
        name = str(schema["$ref"]).removeprefix(_SCHEMAS)
        return f'<a href="#{_id("schema " + name)}">{_text(name)}</a>'
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return " or ".join(_type(one) for one in schema[several])
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return " or ".join(f"<code>{_text(json.dumps(value))}</code>" for value in values)
    kind = schema.get("type", "any value")
    words = _text(" or ".join(kind) if isinstance(kind, list) else str(kind))
    if kind == "array":
        words = f"list of {_type(schema.get('items', {}))}"
    elif kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        words = f"object of {_type(schema['additionalProperties'])}"
    if "format" in schema:
        words += f" ({_text(str(schema['format']))})"
    limits = [f"{text} {_text(str(schema[key]))}" for key, text in _LIMITS.items() if key in schema]
    return f"{words}{', ' if limits else ''}{', '.join(limits)}"


def _resolve(contract: Mapping[str, Any], given: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" not in given:
        return given
    found: Any = contract
    for part in str(given["$ref"]).removeprefix("#/").split("/"):
        found = found[part]
    resolved: Mapping[str, Any] = found
    return resolved


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{_text(part)}</p>" for part in text.split("\n\n") if part.strip())


def _text(text: str) -> str:
    """`text` as HTML. Addresses in examples are written so that nobody takes them for what the page loads."""
    return escape(text).replace("://", ":&#47;&#47;")


def _id(name: str) -> str:
    return escape(name.replace(" ", "-"), quote=True)
