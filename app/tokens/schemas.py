"""Tokens as they are asked for, kept and listed."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from app.access.roles import Role
from app.access.secret import TOKEN_ID_PATTERN
from app.schema import Identifier, Schema, Timestamp

TokenId = Annotated[str, Field(pattern=TOKEN_ID_PATTERN, description="Public: for listing and revoking.")]
Note = Annotated[
    str, Field(max_length=200, description="A note for people: who uses the token, and for what.")
]
Lifetime = Annotated[
    float | None, Field(gt=0, le=3.2e9, description="Seconds until the token expires; null: never.")
]


class TokenRequest(Schema):
    """A token to be made, of one cluster."""

    role: Role
    node_id: Annotated[Identifier | None, Field(description="The one node that a NODE's token is for.")] = (
        None
    )
    note: Note = ""
    expires_in_seconds: Lifetime = None

    @model_validator(mode="after")
    def _names_its_node(self) -> Self:
        if (self.role is Role.NODE) != (self.node_id is not None):
            raise ValueError("node_id: expected with the role NODE, and only with it")
        return self


class GlobalTokenRequest(Schema):
    """A token to be made, of all clusters."""

    role: Role
    note: Note = ""
    expires_in_seconds: Lifetime = None

    @model_validator(mode="after")
    def _of_no_node(self) -> Self:
        if self.role is Role.NODE:
            raise ValueError("role: a node's token belongs to one cluster, ask for it there")
        return self


class TokenResource(Schema):
    """What is shown of a token."""

    token_id: TokenId
    role: Role
    cluster_id: Annotated[Identifier | None, Field(description="null: of all clusters.")]
    node_id: Identifier | None
    note: str
    created_at: Timestamp
    created_by: Annotated[str, Field(description="The id of the token it was made with.")]
    expires_at: Timestamp | None
    last_used_at: Annotated[Timestamp | None, Field(description="Accurate to about five minutes.")]


class IssuedToken(TokenResource):
    token: Annotated[str, Field(description="The token. It is shown only in this answer and is not stored.")]


class TokenList(Schema):
    tokens: list[TokenResource]
    next_after: Annotated[str | None, Field(description="`after` of the next page.")]
