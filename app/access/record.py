"""A token as it is kept."""

from typing import Annotated

from pydantic import Field

from app.access.roles import Role
from app.schema import Schema, Timestamp


class TokenRecord(Schema):
    """`cluster_id` null: of all clusters. `node_id` is set for nodes' tokens alone."""

    token_id: str
    role: Role
    cluster_id: str | None
    node_id: str | None
    note: str
    created_at: Timestamp
    created_by: str
    expires_at: Timestamp | None
    digest: Annotated[str, Field(description="SHA-256 of the token's text, hexadecimal.")]
