"""Parameters that many routes share."""

import re
from collections.abc import Mapping
from typing import Annotated

from fastapi import Path, Query
from starlette.requests import Request
from starlette.types import Scope

from app.errors import FieldError, InvalidRequest
from app.schema import ID_PATTERN, RECORD_ID_PATTERN

ClusterId = Annotated[
    str, Path(pattern=ID_PATTERN, description="A cluster is the fleet that one placement covers.")
]
NodeId = Annotated[str, Path(pattern=ID_PATTERN)]
ModelId = Annotated[str, Path(pattern=ID_PATTERN)]
RecordId = Annotated[str, Path(pattern=RECORD_ID_PATTERN)]
BeforeRecord = Annotated[str | None, Query(pattern=RECORD_ID_PATTERN)]
PageSize = Annotated[int, Query(ge=1, le=100, description="Largest number of entries on the page.")]

_ID = re.compile(ID_PATTERN)


_FIELDS = "moeplace.fields"
"""Key of the request's scope."""


def fields_of(scope: Scope) -> Mapping[bytes, bytes]:
    """All headers by their names in small letters; several of one name are joined, as lists are."""
    found: dict[bytes, bytes] | None = scope.get(_FIELDS)
    if found is None:
        given = scope["headers"]
        found = scope[_FIELDS] = dict(given)
        if len(found) < len(given):
            for name in found:
                found[name] = b",".join(value for known, value in given if known == name)
    return found


def header(request: Request, name: bytes) -> str | None:
    """The first header of that name (in small letters); None where there is none."""
    value = fields_of(request.scope).get(name)
    if value is not None and b"," in value:
        value = next(value for known, value in request.scope["headers"] if known == name)
    return None if value is None else value.decode("latin-1")


def headers(request: Request, name: bytes) -> str | None:
    """All headers of that name (in small letters), joined as lists are; None where there is none."""
    value = fields_of(request.scope).get(name)
    return None if value is None else value.decode("latin-1")


def path_id(request: Request, name: str) -> str:
    """For plain routes: the id in the path, judged as FastAPI does in the others."""
    value: str = request.path_params[name]
    # `$` would accept a newline at the end.
    if _ID.fullmatch(value) is None:
        detail = f"expected an id that matches {ID_PATTERN}"
        raise InvalidRequest(
            f"path:{name}: {detail}", errors=[FieldError(f"path:{name}", detail, "STRING_PATTERN_MISMATCH")]
        )
    return value
