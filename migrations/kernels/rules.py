"""How a schedule weighs its choices, as the kernels take it."""

from __future__ import annotations

from typing import NamedTuple

NOTHING, STARTED, DECLINED, LAY_OUT = 0, 1, 2, 3
"""What came of an attempt to start a copy, or to make room for it; DECLINED: not worth it now; LAY_OUT: the
node's devices have to be laid out anew first."""


class Rules(NamedTuple):
    """A `Policy`, and what it is applied to.

    bound: seconds the plan is to take; recount_every: ends of copies between two counts of loads;
    refresh_every: counts between which every gain and loss is taken anew, 0 where they are given and stay.
    """

    urgency: float
    by_flow: bool
    room: float
    bulk: float
    by_loss: bool
    patience: float
    strict: bool
    bound: float
    recount_every: int
    refresh_every: int
