"""Parameters that many routes share."""

import re
from typing import Annotated

from fastapi import Path, Query
from starlette.requests import Request

from app.errors import FieldError, InvalidRequest
from app.schema import ID_PATTERN, RECORD_ID_PATTERN

ClusterId = Annotated[str, Path(pattern=ID_PATTERN, description="The fleet that one placement covers.")]
NodeId = Annotated[str, Path(pattern=ID_PATTERN)]
ModelId = Annotated[str, Path(pattern=ID_PATTERN)]
RecordId = Annotated[str, Path(pattern=RECORD_ID_PATTERN)]
BeforeRecord = Annotated[str | None, Query(pattern=RECORD_ID_PATTERN)]
PageSize = Annotated[int, Query(ge=1, le=100, description="Entries of a page, at most.")]

_ID = re.compile(ID_PATTERN)


def header(request: Request, name: bytes) -> str | None:
    """The first header of that name (in small letters), found at a tenth of what a mapping of all costs."""
    for given, value in request.scope["headers"]:
        if given == name:
            text: str = value.decode("latin-1")
            return text
    return None


def headers(request: Request, name: bytes) -> str | None:
    """All headers of that name (in small letters), joined as lists are; None where there is none."""
    given = [value for known, value in request.scope["headers"] if known == name]
    return b",".join(given).decode("latin-1") if given else None


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
