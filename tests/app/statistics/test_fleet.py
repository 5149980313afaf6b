"""Ids of the API and indices of the solvers are mapped one to one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.nodes.schemas import HeldExperts
from app.placements.schemas import NodeHoldings
from app.statistics.fleet import Fleet, UnknownExpert
from tests.app.telemetry.cluster import model, node

FLEET = Fleet.of([model("z", {3: 4}), model("a", {1: 8, 7: 2})], [node("n2"), node("n1"), node("n10")])


def test_order() -> None:
    """Models by id, blocks by layer, nodes by id, whatever order they came in."""
    assert FLEET.blocks == (("a", 1), ("a", 7), ("z", 3))
    assert FLEET.node_ids == ("n1", "n10", "n2")
    assert FLEET.block_offset.tolist() == [0, 8, 10, 14]
    assert FLEET.model_block_offset.tolist() == [0, 2, 3]
    assert FLEET.shape == (3, 14)


def test_every_column_has_one_address() -> None:
    """address and column are inverse, and the member in the sets of holdings agrees."""
    for column in range(FLEET.experts):
        address = FLEET.address(column)
        assert FLEET.column(*address) == column
        assert np.flatnonzero(FLEET.row_of_members([address.member.encode()])).tolist() == [column]


@given(st.lists(st.sampled_from(range(3 * 14))))
def test_a_matrix_survives_the_api(cells: list[int]) -> None:
    """uint8[N, E] to `spec.holds` and back, and to sets of holdings and back."""
    matrix = np.zeros(FLEET.shape, np.uint8)
    matrix.reshape(-1)[cells] = 1
    assert (FLEET.matrix_of_holdings(FLEET.holdings_of_matrix(matrix)) == matrix).all()
    members = {
        node_id: [FLEET.address(c).member.encode() for c in np.flatnonzero(matrix[row]).tolist()]
        for row, node_id in enumerate(FLEET.node_ids)
    }
    assert (FLEET.matrix_of_members(members) == matrix).all()


@pytest.mark.parametrize(
    ("model_id", "layer", "experts", "part"),
    [("b", 1, [0], "model_id"), ("a", 2, [0], "layer"), ("a", 7, [0, 2], "expert")],
)
def test_what_is_not_registered_is_named(model_id: str, layer: int, experts: list[int], part: str) -> None:
    """Unknown ids raise with the part that is wrong, or are left out where that is asked for."""
    held = HeldExperts(model_id=model_id, layer=layer, experts=experts)
    with pytest.raises(UnknownExpert) as raised:
        FLEET.columns_of_held([held])
    assert raised.value.part == part
    known = HeldExperts(model_id="z", layer=3, experts=[1])
    holds = [NodeHoldings(node_id="n1", holds=[held, known]), NodeHoldings(node_id="gone", holds=[known])]
    with pytest.raises(UnknownExpert):
        FLEET.matrix_of_holdings(holds)
    found = FLEET.matrix_of_holdings(holds, ignore_unknown=True)
    assert found[0, 11] == 1
    assert found[1:].sum() == 0
    assert FLEET.row_of_members([b"z/3/1", b"b/1/0", b"a/7/2", b"junk"]).sum() == 1


def test_members_of_no_registered_model_are_told_apart() -> None:
    """A model, a layer or an expert that is not there; numbers in their order, not that of their text."""
    members = [b"z/3/10", b"z/3/9", FLEET.address(0).member.encode(), b"a/7/2"]
    assert FLEET.unknown_members(members) == [("a", 7, 2), ("z", 3, 9), ("z", 3, 10)]


def test_an_empty_fleet() -> None:
    """Nothing registered is no error."""
    empty = Fleet.of([], [])
    assert empty.shape == (0, 0)
    assert empty.holdings_of_matrix(np.zeros((0, 0), np.uint8)) == []
