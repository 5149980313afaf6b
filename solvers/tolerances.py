"""Every tolerance of the solvers, each with what it decides.

All are relative unless their sentence says otherwise. A kernel reads them when it is compiled. numba's cache
does not see that one has changed: remove the cache (`__pycache__` beside the kernels) after a change here.
"""

from __future__ import annotations

from typing import Final

# --- when two costs are one
SAME_COST: Final = 1e-12
"""A cost or a saving that differs by less is the same: rounding of double precision, never an improvement."""
SAME_COST_SINGLE: Final = 1e-7
"""The same where what calls cost is kept in single precision."""
BEND: Final = 1e-9
"""A table whose slopes rise by less, in parts of its largest value, counts as concave."""
SPARE: Final = 1e-9
"""A promise of 1 - eps is kept with this part of eps to spare, for the rounding of sums."""

# --- when a bound is one
BOUND_ROUNDING: Final = 1e-11
"""At least so much of the sums that a bound is made of is taken off it, so that it is a bound in floats."""
PER_TERM: Final = 2.0**-53
"""The same for each term of these sums: half a unit in the last place."""
BOUND_ABOVE: Final = 1e-9
"""A bound above what it bounds by less is rounding. By more it is a fault of the program."""
CERTAIN: Final = 1e-9
"""At a smaller gap between cost and bound there is nothing left to find."""
OPTIMALITY_TOLERANCE: Final = 1e-6
"""At a gap of at most this a placement is called OPTIMAL."""

# --- what HiGHS is asked for
EXACT_GAP: Final = 1e-7
"""The gap at which HiGHS ends for `exact`."""
EXACT_MARGIN: Final = 5e-7
"""Taken off HiGHS's bound, for HiGHS keeps constraints to tolerances of its own."""
NEIGHBOURHOOD_GAP: Final = 1e-5
"""The gap at which HiGHS ends for a part of a placement."""

# --- inner solutions
MEMORY_PRICE: Final = 1e-14
"""A price of memory whose value is nearer to the best possible one is the best."""
ROOM: Final = 1e-9
"""A step of the relaxed placement fills the room of a node to within this part of it."""
PRICE_WIDTH: Final = 1e-12
"""A price of memory that is known to so much is known."""
WHOLE_SHARE: Final = 1e-9
"""A share of slots, absolute, that lacks less of a whole number is that number."""
HELD: Final = 1e-3
"""Fractions of a placement, absolute, may lie outside 0..1 by so much once rounded to single precision."""
TINY: Final = 1e-300
"""Added, absolute, to what is divided by and may be 0."""
