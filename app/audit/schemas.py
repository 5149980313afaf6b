"""What operators did."""

from typing import Annotated

from pydantic import Field

from app.access.roles import Role
from app.http.noted import Change
from app.schema import Identifier, Schema, Timestamp

AUDIT_ID_PATTERN = r"^[0-9]{1,19}-[0-9]{1,19}$"
AuditId = Annotated[str, Field(pattern=AUDIT_ID_PATTERN, description="Sorted by time.")]


MAX_CHANGES = 64


class AuditRecord(Schema):
    """As stored."""

    at: Timestamp
    token_id: Annotated[
        str,
        Field(description="anonymous: no token was required. operator-setting: the token of the settings."),
    ]
    role: Role
    operation: Annotated[str, Field(description="The operation's id in the contract.")]
    method: str
    path: str
    cluster_id: Identifier | None
    status: Annotated[int, Field(description="Status of the answer.")]
    trace_id: str | None
    generation_before: Annotated[int | None, Field(description="Generation in force before the request.")]
    generation_after: Annotated[int | None, Field(description="Generation in force after the request.")]
    changes: Annotated[
        list[Change],
        Field(
            description=f"Old and new values, the first {MAX_CHANGES}, of a cluster's settings, of the "
            "condition of a node that was drained or let in, and of whether recomputation is paused."
        ),
    ] = []


class AuditEntry(AuditRecord):
    audit_id: AuditId


class AuditList(Schema):
    entries: list[AuditEntry]
    next_before: Annotated[str | None, Field(description="`before` of the next page.")]
