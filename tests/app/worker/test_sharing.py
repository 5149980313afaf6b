"""Workers come to equal shares without a word to each other."""

from hypothesis import given
from hypothesis import strategies as st

from app.worker.sharing import in_own_order, share, surrendered

WORKERS = st.sets(st.text("abc123-", min_size=1, max_size=4), min_size=1, max_size=9)


@given(WORKERS, st.integers(0, 1000))
def test_shares_are_even_and_complete(workers: set[str], clusters: int) -> None:
    """The shares of all differ by one at most, and leave no cluster over."""
    shares = [share(worker, workers, clusters) for worker in workers]
    assert sum(shares) == clusters
    assert max(shares) - min(shares) <= 1


def test_whoever_is_not_counted_counts_itself() -> None:
    """A worker that has not been heard of yet does not think the others have everything."""
    assert share("new", ["old"], 10) == 5
    assert share("alone", [], 3) == 3


@given(st.integers(0, 500), st.integers(0, 500))
def test_a_surplus_goes_in_parts(held: int, fair: int) -> None:
    """Some with each look, never too many, until it is gone."""
    looks = 0
    while (leaving := surrendered(held, fair)) > 0:
        assert leaving <= held - fair
        held -= leaving
        looks += 1
    assert held <= fair or looks == 0
    assert looks <= 25


def test_each_worker_has_an_order_of_its_own() -> None:
    """Of the same clusters, and the same each time."""
    clusters = [f"c{index}" for index in range(50)]
    orders = {tuple(in_own_order(worker, clusters)) for worker in ("a", "b", "c")}
    assert len(orders) == 3
    assert {frozenset(order) for order in orders} == {frozenset(clusters)}
    assert in_own_order("a", reversed(clusters)) == in_own_order("a", clusters)
