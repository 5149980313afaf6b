"""Assignments and orders for tests."""

from __future__ import annotations

from moeplace_agent.messages import (
    Assignment,
    LayerRoutes,
    Metadata,
    MoveKind,
    MoveOrder,
    Orders,
    RouteTarget,
    TargetKind,
)

PEER = RouteTarget(TargetKind.NODE, "n2", None, 0.003)
FAR = RouteTarget(TargetKind.NODE, "n3", None, 0.009)
ORIGIN = RouteTarget(TargetKind.ORIGIN, None, None, 0.03)


def assignment(
    routes: dict[int, list[int]], *targets: RouteTarget, generation: int = 1, uid: str = "u"
) -> Assignment:
    """Routes of layer 0 of model m."""
    layer = LayerRoutes("m", 0, list(routes), list(routes.values()))
    return Assignment(
        Metadata(uid, generation, f"d{generation}"), "n1", [], list(targets), [layer] if routes else []
    )


def order(
    kind: MoveKind, expert: int, *, size: int = 4, attempt: int = 1, digest: str | None = None
) -> MoveOrder:
    return MoveOrder(
        f"{kind.value.lower()}-{expert}", "p1", kind, "m", 0, expert, size, None, None, None, digest, attempt
    )


def orders(*moves: MoveOrder, generation: int = 1) -> Orders:
    return Orders(Metadata("u", generation, "d"), "n1", list(moves))
