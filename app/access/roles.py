"""Who asks: the role of a token, and what it is limited to."""

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    OPERATOR = "OPERATOR"
    """May do everything."""
    READER = "READER"
    """May read everything, and change nothing."""
    NODE = "NODE"
    """May do what the agent of its node does."""


@dataclass(frozen=True, slots=True)
class Principal:
    """`cluster_id` None: of all clusters. `node_id` is set for nodes alone, which always have a cluster."""

    token_id: str
    role: Role
    cluster_id: str | None = None
    node_id: str | None = None


ANONYMOUS = Principal("anonymous", Role.OPERATOR)
"""Everybody, where no tokens are asked for."""
