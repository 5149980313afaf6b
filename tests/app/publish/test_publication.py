"""What the metrics say of the placement in force."""

from prometheus_client import REGISTRY

from app.observability.exposition import exposition
from app.publish.publication import show_in_metrics
from tests.app.solve.test_triggers import EVIDENCE, observed


def test_a_placement_without_evidence_shows_none_of_the_one_before() -> None:
    """An operator's placement has no gap: the gauge of the solved one must not go on."""
    solved = observed(generation=4, evidence=EVIDENCE.model_copy(update={"gap_ratio": 0.25})).in_force
    assert solved is not None
    show_in_metrics("shown", solved)
    labels = {"cluster": "shown"}
    assert REGISTRY.get_sample_value("moeplace_placement_gap_ratio", labels) == 0.25
    given = observed(generation=5).in_force
    assert given is not None
    show_in_metrics("shown", given)
    text, _ = exposition()
    assert 'moeplace_placement_gap_ratio{cluster="shown"}' not in text.decode()
    assert REGISTRY.get_sample_value("moeplace_placement_generation", labels) == 5
