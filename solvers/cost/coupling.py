"""The couplings, side by side: what each part of the solvers asks about one.

The latency of a route is `kernels.evaluation.route_latency`, what one node saves of it `kernels.terms`, the
rows of the integer programme `exact.programme`. Each names every coupling and has no case for the rest. The
dual terms are `dual.pdhg`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from solvers.kernels import evaluation
from solvers.kernels.terms import EXACT_MEMBERS
from solvers.problem import Coupling


class Form(NamedTuple):
    """One coupling.

    code: its number inside kernels. single: every call counts by itself, so that the activity of experts says
    all about the routes. hosted: one server may serve a route as a whole. terms: how many terms the saving of
    one node may have of a route of at most so many experts, where every node has an origin and where not.
    with_origin: the coupling whose costs are at most these once every node is given an origin, where every
    node has one already and where not.
    """

    code: int
    single: bool
    hosted: bool
    terms: Callable[[int, bool], int]
    with_origin: Callable[[bool], Coupling]


def _colocated_terms(width: int, has_origin: bool) -> int:
    return 1 if has_origin else max(width, 2 ** min(width, EXACT_MEMBERS))


FORMS: Mapping[Coupling, Form] = MappingProxyType(
    {
        Coupling.SUM: Form(
            code=evaluation.SUM,
            single=True,
            hosted=False,
            terms=lambda _, __: 0,
            with_origin=lambda _: Coupling.SUM,
        ),
        Coupling.SLOWEST: Form(
            code=evaluation.SLOWEST,
            single=False,
            hosted=False,
            terms=lambda width, _: width,
            with_origin=lambda _: Coupling.SLOWEST,
        ),
        Coupling.COLOCATED: Form(
            code=evaluation.COLOCATED,
            single=False,
            hosted=True,
            terms=_colocated_terms,
            with_origin=lambda has_origin: Coupling.COLOCATED if has_origin else Coupling.SLOWEST,
        ),
    }
)
