"""What the contract says of tokens: for every operation whose they may be, and how it refuses others."""

from typing import Any

from app.access.rules import ROLES, rule_of
from app.http.openapi import RETRY_AFTER
from app.http.problem import MEDIA_TYPE

SCHEME = "token"

_METHODS = frozenset({"get", "put", "post", "patch", "delete"})
_CHALLENGE = {
    "WWW-Authenticate": {
        "required": True,
        "description": "Bearer, and what is wrong with the token.",
        "schema": {"type": "string"},
    }
}
_RESPONSES = {"401": "Unauthenticated", "403": "Forbidden", "429": "TooManyRequests"}


def secure(document: dict[str, Any]) -> None:
    """Complete the contract in place. Roles are listed as OpenAPI 3.1 has them: any entry will do."""
    components = document["components"]
    components["securitySchemes"] = {
        SCHEME: {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "mpl_...",
            "description": "Not required on loopback until the first token is issued. The roles "
            "listed with an operation are those of the token: OPERATOR, READER or "
            "NODE.",
        }
    }
    components["responses"] = {
        "Unauthenticated": {**_problem("The request needs a valid token."), "headers": _CHALLENGE},
        "Forbidden": {**_problem("The token does not allow this request."), "headers": _CHALLENGE},
        "TooManyRequests": {
            **_problem("Too many requests with this token, or too many wrong tokens from this address."),
            "headers": RETRY_AFTER,
        },
    }
    for template, methods in document["paths"].items():
        for method, operation in methods.items():
            if method not in _METHODS:
                continue
            rule = rule_of(method.upper(), template)
            roles = ROLES.get(rule, ())
            operation["security"] = [{SCHEME: [role.value]} for role in roles]
            if not roles:
                continue
            responses = operation["responses"]
            for status, name in _RESPONSES.items():
                responses.setdefault(status, {"$ref": f"#/components/responses/{name}"})
            operation["responses"] = dict(sorted(responses.items()))


def _problem(description: str) -> dict[str, Any]:
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {"description": description, "content": content}
