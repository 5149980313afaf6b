"""Work on ranges of blocks or experts, side by side: kernels run without the interpreter's lock."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from solvers.problem import Int64

_CHUNKS = 4  # whatever the machine, so that sums come out the same everywhere
_LEAST_WORK = 20_000  # units below which a second thread is not worth waking

Range = tuple[int, int]
Result = TypeVar("Result")


def ranges(work: Int64) -> list[Range]:
    """At most four ranges of items of about equal work int64[items]; one where there is little to do."""
    total = np.concatenate(([0], np.cumsum(work)))
    if len(work) == 0 or total[-1] < _LEAST_WORK:
        return [(0, len(work))]
    edges = np.searchsorted(total, total[-1] * np.arange(1, _CHUNKS) / _CHUNKS)
    cuts = np.unique(np.concatenate(([0], edges, [len(work)]))).tolist()
    return list(itertools.pairwise(cuts))


def even_ranges(items: int, work: int) -> list[Range]:
    """As `ranges`, where every item is as much work. O(1)."""
    if items == 0 or items * work < _LEAST_WORK:
        return [(0, items)]
    cuts = sorted({items * i // _CHUNKS for i in range(_CHUNKS + 1)})
    return list(itertools.pairwise(cuts))


def side_by_side(task: Callable[[int, int], Result], parts: Iterable[Range]) -> list[Result]:
    """task(first, last) of every range, in order."""
    given = list(parts)
    if len(given) == 1:
        return [task(*given[0])]
    return list(_pool(os.getpid()).map(lambda part: task(*part), given))


@functools.cache
def _pool(_: int) -> ThreadPoolExecutor:
    """The threads of one process: a fork has none of its parent's."""
    return ThreadPoolExecutor(min(_CHUNKS, os.cpu_count() or 1), thread_name_prefix="solver")
