"""No copy is free to go while some node may still route to it."""

import hypothesis.strategies as st
from hypothesis import given

from app.publish.withdrawal import HeldCopy, Withdrawal

COPY = HeldCopy("a", "m", 0, 1)
OTHER = HeldCopy("b", "m", 0, 2)


def test_copy_is_free_once_all_use_tables_without_it() -> None:
    """Nodes are behind until each uses a table made since the copy was withdrawn."""
    withdrawal = Withdrawal()
    withdrawal.tables_made({"a": "a1", "b": "b1"}, withdrawal.copies)
    withdrawal.withdraw([COPY])
    assert withdrawal.behind(COPY, {"a": "a1", "b": "b1"}) == ["a", "b"], "no table was made since"
    withdrawal.tables_made({"a": "a2", "b": "b2"}, withdrawal.copies)
    assert withdrawal.behind(COPY, {"a": "a2", "b": "b1"}) == ["b"]
    assert withdrawal.behind(COPY, {"a": "a2", "b": "b2"}) == []
    assert withdrawal.behind(COPY, {"a": "a2"}) == [], "a lost node routes nowhere"
    assert withdrawal.behind(COPY, {"a": "a2", "b": None}) == ["b"], "a node that says nothing holds it up"


def test_unchanged_table_counts_as_new() -> None:
    """A node whose table did not change by the withdrawal need not fetch it again."""
    withdrawal = Withdrawal()
    withdrawal.tables_made({"a": "a1", "b": "b1"}, withdrawal.copies)
    withdrawal.withdraw([COPY])
    withdrawal.tables_made({"a": "a1", "b": "b2"}, withdrawal.copies)
    assert withdrawal.behind(COPY, {"a": "a1", "b": "b2"}) == []


def test_later_tables_do_not_undo_it() -> None:
    """While copies go on to change tables, a node that uses any table since the withdrawal is not behind."""
    withdrawal = Withdrawal()
    withdrawal.withdraw([COPY])
    for number in range(5):
        withdrawal.tables_made({"a": f"a{number}"}, withdrawal.copies)
    assert withdrawal.behind(COPY, {"a": "a0"}) == []
    withdrawal.withdraw([OTHER])
    withdrawal.tables_made({"a": "a9"}, withdrawal.copies)
    assert withdrawal.behind(OTHER, {"a": "a4"}) == ["a"]
    assert withdrawal.behind(COPY, {"a": "a4"}) == []


def test_withheld_copy_stays_out_until_its_time() -> None:
    """A copy that a node may still be dropping is left out of tables for a while, then routed to again."""
    withdrawal = Withdrawal()
    withdrawal.withdraw([COPY])
    withdrawal.withhold([COPY], until=10.0)
    withdrawal.restrict(frozenset())
    assert COPY in withdrawal.copies
    before = withdrawal.revision
    withdrawal.readmit(10.0)
    assert COPY not in withdrawal.copies
    assert withdrawal.revision > before


def test_a_withheld_copy_is_back_once_its_node_goes_by_orders_without_the_drop() -> None:
    """What other nodes say does not count."""
    withdrawal = Withdrawal()
    withdrawal.withhold([COPY], until=10.0)
    withdrawal.readmit(0.0, lambda node_id: node_id != COPY.node_id)
    assert COPY in withdrawal.copies
    withdrawal.readmit(0.0, lambda node_id: node_id == COPY.node_id)
    assert COPY not in withdrawal.copies


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("withdraw"), st.integers(0, 3)),
            st.tuples(st.just("restrict"), st.sets(st.integers(0, 3))),
            st.tuples(st.just("make"), st.just(0)),
            st.tuples(st.just("switch"), st.integers(0, 1)),
        ),
        max_size=40,
    )
)
def test_free_means_no_table_in_use_names_it(steps: list[tuple[str, object]]) -> None:
    """Whatever the order of withdrawing, giving back, making tables and switching: a copy called free is in
    no table that a node uses. Tables are modelled by the copies they leave out, which is their version."""
    withdrawal = Withdrawal()
    copies = [HeldCopy("n", "m", 0, expert) for expert in range(4)]
    newest = {"a": "", "b": ""}
    in_use: dict[str, str | None] = {"a": None, "b": None}
    for kind, value in steps:
        if kind == "withdraw":
            withdrawal.withdraw([copies[int(str(value))]])
        elif kind == "restrict":
            assert isinstance(value, set)
            kept = {copies[number] for number in value}
            withdrawal.restrict(frozenset(kept & withdrawal.copies))
        elif kind == "make":
            version = ",".join(str(copy.expert) for copy in sorted(withdrawal.copies))
            newest = dict.fromkeys(newest, f"without {version}")
            withdrawal.tables_made(newest, withdrawal.copies)
        else:
            name = "ab"[int(str(value))]
            in_use[name] = newest[name] or None
        for copy in withdrawal.copies:
            if not withdrawal.behind(copy, in_use):
                for version_used in in_use.values():
                    assert version_used is not None
                    assert str(copy.expert) in version_used.removeprefix("without ").split(",")
