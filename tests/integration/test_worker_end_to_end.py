"""Over HTTP alone, against real processes: a fleet converges, and follows its traffic."""

from collections.abc import Callable

from tests.scripted_fleet import converge_and_follow
from tests.service import Service


def test_fleet_converges_and_follows_its_traffic(serve: Callable[..., Service]) -> None:
    """Two nodes that only speak HTTP reach the first placement; once telemetry says which experts each node's
    tokens call, a solve moves those there, and the fleet converges again."""
    service = serve(env={"MOEPLACE_WORKER_TICK_SECONDS": "0.1"})
    converge_and_follow(service.base_url, "c")
