"""The one kind of Range that resuming a download needs (RFC 9110, section 14): one range of bytes."""

from __future__ import annotations

import re

_ONE = re.compile(r"\s*bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*", re.IGNORECASE | re.ASCII)


class Unsatisfiable(ValueError):
    """The range lies beyond the end."""


def requested_range(header: str | None, size: int) -> tuple[int, int] | None:
    """[start, end) of the bytes asked for. None where everything is to be sent: no range, several at once, or
    something else, which a server may ignore. Raises `Unsatisfiable`."""
    found = _ONE.fullmatch(header) if header is not None else None
    if found is None or (not found[1] and not found[2]):
        return None
    if not found[1]:
        length = min(int(found[2]), size)
        if length == 0:
            raise Unsatisfiable
        return size - length, size
    start = int(found[1])
    end = min(int(found[2]) + 1, size) if found[2] else size
    if found[2] and int(found[2]) < start:
        return None
    if start >= size:
        raise Unsatisfiable
    return start, end
