"""What the status says while a drop waits for routes."""

from app.migrate.releasing import still_routing
from app.placements.schemas import Outlook


def test_a_node_that_is_lost_is_not_said_to_need_its_agent_looked_at() -> None:
    """The drop waits for the lost node's second lease, and nothing has to be done about that."""
    found = still_routing(["a"], frozenset({"a"}))
    assert (found.outlook, found.remedy) == (Outlook.UNDER_WAY, None)
    assert found.reason.startswith("a, lost recently, may still route to a copy")


def test_a_live_node_with_old_routes_is_named() -> None:
    """Nodes that are lost are not counted with it, and one node is not plural."""
    found = still_routing(["a", "b"], frozenset({"a"}))
    assert found.outlook is Outlook.WAITING
    assert found.reason == "1 node, first b, still routes to a copy that is to be dropped"
    assert "agent of b" in str(found.remedy)
