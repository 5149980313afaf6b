"""How long-lived processes keep memory: what of it they hold on to, and how often they look for cycles."""

import contextlib
import ctypes
import gc

THRESHOLDS = 50_000, 20, 50
"""Young objects between collections: requests and windows make few cycles, and a collection at the default
threshold of 700 stops the loop for tens of milliseconds now and then."""

KEPT_BYTES = 64 << 20
"""Freed memory at the end of the heap that is not given back to the system. The C library's 128 KiB are a
few bodies of requests: it would give their pages back and ask for them anew with each request, and the
faults would cost more than all that is done with the body."""

MAPPED_BYTES = 4 << 20
"""What is as large is a mapping of its own, and given back as soon as it is freed."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def settle() -> None:
    """Called once what lives as long as the process is there: it is looked at for cycles no more."""
    with contextlib.suppress(AttributeError, TypeError):  # other C libraries have no such settings
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
