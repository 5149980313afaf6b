"""Is a window believable? What is not is left out with a pointer to it, and the rest is kept and packed.

The sums of a layer's counts are not held against `tokens * top_k`: engines drop tokens at capacity limits,
pad batches and replay, and would be refused for what they rightly saw.
"""

import re
from datetime import datetime

from app.schema import MAX_EXACT
from app.telemetry.checked_counts import counts_of
from app.telemetry.checked_routes import routes_of
from app.telemetry.decoding import Decoded
from app.telemetry.faults import Faults
from app.telemetry.packed import MAX_COUNT, VERSION, PackedWindow, narrow
from app.telemetry.registry import Registered

MAX_WINDOW_SECONDS = 3600.0
MAX_AGE_SECONDS = 600.0
MAX_AHEAD_SECONDS = 60.0

_INSTANCE = re.compile(r"[A-Za-z0-9._:-]{1,64}")


def check(
    decoded: Decoded, node_id: str, registered: Registered, now: datetime, faults: Faults
) -> PackedWindow | None:
    """The window as it goes to Redis; None when it cannot be taken at all. `faults` says what is missing."""
    window = decoded.window
    model = registered.models.get(window.model_id)
    if model is None:
        faults.add(
            "/model_id",
            f"model {window.model_id[:100]!r} is not registered: register it first",
            "UNKNOWN_MODEL",
        )
        return None
    if not _check_envelope(decoded, now, faults):
        return None
    counts = counts_of(decoded.layers, decoded.layer_places, model, faults)
    if decoded.layers_given and counts.layers == ():
        # Taken without any layer, it would say that the node was idle.
        faults.add("/layers", "none of the window's layers can be taken", "NO_LAYERS")
        return None
    routes = []
    if decoded.routes:
        counted = set(model.order if counts.layers is None else counts.layers)
        routes = routes_of(decoded.routes, decoded.route_places, model, counted, faults)
    return PackedWindow(
        VERSION,
        node_id,
        window.model_id,
        model.digest,
        window.sequence_number,
        _microseconds(window.window.start_at),
        _microseconds(window.window.end_at),
        window.tokens,
        counts.layers,
        *narrow(counts.counts),
        counts.experts,
        routes,
        None,
        None,
    )


def _microseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000_000)


def _check_envelope(decoded: Decoded, now: datetime, faults: Faults) -> bool:
    window = decoded.window
    before = faults.count
    if _INSTANCE.fullmatch(window.instance_uid) is None:
        faults.add("/instance_uid", "expected 1 to 64 of A-Z a-z 0-9 . _ : -", "MALFORMED")
    if not 1 <= window.sequence_number <= MAX_EXACT:
        faults.add(
            "/sequence_number", f"is {window.sequence_number}, expected 1..{MAX_EXACT}", "OUT_OF_RANGE"
        )
    if not 0 <= window.tokens <= MAX_COUNT:
        faults.add("/tokens", f"is {window.tokens}, expected 0..{MAX_COUNT}", "OUT_OF_RANGE")
    start, end = window.window.start_at, window.window.end_at
    seconds = (end - start).total_seconds()
    if seconds <= 0:
        faults.add("/window/end_at", "is not after start_at", "END_NOT_AFTER_START")
    elif seconds > MAX_WINDOW_SECONDS:
        faults.add(
            "/window/end_at",
            f"is {seconds:g} s after start_at, expected at most {MAX_WINDOW_SECONDS:g} s",
            "WINDOW_TOO_LONG",
        )
    ahead = (end - now).total_seconds()
    if ahead > MAX_AHEAD_SECONDS or -ahead > MAX_AGE_SECONDS:
        place = f"{ahead:.0f} s in the future" if ahead > 0 else f"{-ahead:.0f} s ago"
        faults.add(
            "/window/end_at",
            f"is {place} (it is {now.isoformat(timespec='milliseconds')} here), expected at most "
            f"{MAX_AGE_SECONDS:g} s ago and {MAX_AHEAD_SECONDS:g} s ahead",
            "CLOCK_SKEW",
        )
    return faults.count == before
