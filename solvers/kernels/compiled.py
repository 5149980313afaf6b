"""How every kernel is compiled: cached, without the interpreter's lock, in one thread, in strict floats.

numba's threads must not be started twice at once, and ties must fall the same way everywhere: no `parallel`,
no `fastmath`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """The function as a kernel. Its machine code is cached beside the source, else in the user's cache
    directory or in NUMBA_CACHE_DIR; where none of them can be written, every process compiles its own."""
    return _compiled(function, nogil=True)


def brief(function: Function) -> Function:
    """As `compiled`, for what takes microseconds: it keeps the interpreter's lock, since with another thread
    at work, to get it back takes longer."""
    return _compiled(function, nogil=False)


def _compiled(function: Function, *, nogil: bool) -> Function:
    kernel: Any
    try:
        kernel = njit(cache=True, nogil=nogil)(function)
    except RuntimeError:
        kernel = njit(nogil=nogil)(function)
    return cast("Function", kernel)
