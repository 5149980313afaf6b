"""What a request changes, noted by its route for the audit."""

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import Field
from starlette.types import Scope

from app.schema import Schema

_CHANGES = "moeplace.changes"
"""Key of the request's scope."""


class Change(Schema):
    """One value before and after; null where there was none."""

    pointer: Annotated[str, Field(description="JSON pointer of what changed.")]
    old: Any
    new: Any


def note_changes(scope: Scope, changes: Iterable[Change]) -> None:
    scope.setdefault(_CHANGES, []).extend(changes)


def noted_changes(scope: Scope) -> list[Change]:
    found: list[Change] = scope.get(_CHANGES, [])
    return found
