"""Compiles, or loads from numba's cache, every kernel of this package."""

from app.statistics import counting, raking, reservoir


def warm() -> None:
    """Some tenths of a second with a warm cache, seconds without."""
    counting.warm()
    raking.warm()
    reservoir.warm()
