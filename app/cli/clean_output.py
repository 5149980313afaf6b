"""Standard output that holds only what Python prints."""

from __future__ import annotations

import io
import os
import sys


def keep_output_clean() -> None:
    """Have what libraries in C write to standard output go to standard error: HiGHS prints lines there during
    a solve, and standard output may be JSON. What Python prints goes where it went."""
    stream = sys.stdout
    if not isinstance(stream, io.TextIOWrapper):
        return
    stream.flush()
    try:
        number = stream.fileno()
        own = os.dup(number)
        os.dup2(2, number)
    except OSError:  # one of them is closed
        return
    sys.stdout = io.TextIOWrapper(
        io.FileIO(own, "w") if stream.write_through else io.BufferedWriter(io.FileIO(own, "w")),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
