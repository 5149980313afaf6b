"""A window from the bytes of one JSON or MessagePack value.

What is well formed is decoded in one go. Where that fails the value is taken apart, so that a fault in one
layer or in one set of routes costs no more than that layer or set.

Decoding holds the interpreter, and lists of numbers cost by the number: a megabyte of them could hold up
everybody else for a quarter of a second. So windows beyond `MAX_LISTED_BYTES` must be packed. Counts in JSON
are packed here, all at once, which is cheap enough for windows of up to `MAX_JSON_COUNTS_BYTES`.
"""

import re
from collections.abc import Sequence
from enum import Enum
from typing import Any

import msgspec

from app.telemetry.faults import Faults
from app.telemetry.listed import pack_lists
from app.telemetry.rows import rows
from app.telemetry.schemas import (
    MAX_PARTS,
    LargeListedWindow,
    LargeRowsWindow,
    LayerCounts,
    LayerRoutes,
    ListedWindow,
    PackedWindow,
    RowsWindow,
    Window,
    WindowParts,
)

MAX_LISTED_BYTES = 96 << 10
"""Largest window that may give any of its numbers in lists."""

MAX_JSON_COUNTS_BYTES = 512 << 10
"""Largest window in JSON that may give the counts of its layers in lists, one per expert."""


class Format(Enum):
    JSON = "JSON"
    MSGPACK = "MessagePack"


class Malformed(ValueError):
    """Not a value of the format at all."""


class Decoded(msgspec.Struct, frozen=True):
    """layers and routes: without those that could not be decoded; `places` are their indexes in the body, or
    None where nothing is missing."""

    window: Window
    layers: Sequence[LayerCounts]
    routes: Sequence[LayerRoutes]
    layer_places: Sequence[int] | None = None
    route_places: Sequence[int] | None = None
    layers_given: bool = True


_MODULES: dict[Format, Any] = {Format.JSON: msgspec.json, Format.MSGPACK: msgspec.msgpack}
_DECODERS: dict[tuple[Format, type], Any] = {
    (form, wanted): module.Decoder(wanted)
    for form, module in _MODULES.items()
    for wanted in (
        Window,
        PackedWindow,
        ListedWindow,
        LargeListedWindow,
        RowsWindow,
        LargeRowsWindow,
        WindowParts,
        LayerCounts,
        LayerRoutes,
        msgspec.Raw,
    )
}


def decode(body: bytes, form: Format, faults: Faults) -> Decoded | None:
    """None when the window cannot be taken at all, which `faults` then explains. Raises `Malformed`."""
    large = len(body) > MAX_LISTED_BYTES
    if large and body.count(b"layer") > 2 * MAX_PARTS:
        faults.add("", f"expected at most {MAX_PARTS} layers and routes", "TOO_MANY")
        return None
    if form is Format.MSGPACK:
        usual = _decode_rows(body, large)
    else:
        usual = _decode_listed(body, large) if len(body) <= MAX_JSON_COUNTS_BYTES else None
    if usual is not None:
        return usual
    try:
        try:
            window: Window = _DECODERS[form, PackedWindow if large else Window].decode(body)
        except msgspec.ValidationError as error:
            _DECODERS[form, msgspec.Raw].decode(body)  # what is not JSON at all is told so
            if not large:
                return _take_apart(body, form, faults)
            _add(faults, "", error, _must_be_packed(form))
            return None
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Malformed(f"not {form.value}: {_words(error)}") from None
    if len(window.layers) + len(window.routes) > MAX_PARTS:
        return _take_apart(body, form, faults)
    return Decoded(window, window.layers, window.routes, layers_given=bool(window.layers))


def _must_be_packed(form: Format) -> str:
    listed = f"; a window of more than {MAX_LISTED_BYTES >> 10} KiB must be packed"
    if form is Format.MSGPACK:
        return listed
    return f"{listed}, all but counts of all experts up to {MAX_JSON_COUNTS_BYTES >> 10} KiB"


def _decode_rows(body: bytes, large: bool) -> Decoded | None:
    """The window with its counts as a table; None where something about it is not as usual."""
    wanted = LargeRowsWindow if large else RowsWindow
    try:
        window: RowsWindow = _DECODERS[Format.MSGPACK, wanted].decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    layers = rows(memoryview(window.layers))
    if layers is None or len(layers) + len(window.routes) > MAX_PARTS:
        return None
    return Decoded(window, layers, window.routes)


def _decode_listed(body: bytes, large: bool) -> Decoded | None:
    """The window with its counts packed; None where something about it is not as usual."""
    try:
        window: ListedWindow = _DECODERS[Format.JSON, LargeListedWindow if large else ListedWindow].decode(
            body
        )
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    if len(window.layers) + len(window.routes) > MAX_PARTS:
        return None
    packed = pack_lists([memoryview(layer.counts) for layer in window.layers])
    if packed is None:
        return None
    layers = [LayerCounts(it.layer, counts) for it, counts in zip(window.layers, packed, strict=True)]
    return Decoded(window, layers, window.routes)


def _take_apart(body: bytes, form: Format, faults: Faults) -> Decoded | None:
    parts: WindowParts | None = _part(_DECODERS[form, WindowParts], body, "", faults)
    if parts is None:
        return None
    if parts.layers is None:
        faults.add("", "object missing required field `layers`", "MISSING")
        return None
    window = Window(
        parts.model_id,
        parts.instance_uid,
        parts.sequence_number,
        parts.window,
        parts.tokens,
        [],
        [],
    )
    layer_places, layers = _each(_DECODERS[form, LayerCounts], parts.layers, "/layers", faults)
    route_places, routes = _each(_DECODERS[form, LayerRoutes], parts.routes, "/routes", faults)
    return Decoded(window, layers, routes, layer_places, route_places, bool(parts.layers))


def _each(
    decoder: Any, parts: list[msgspec.Raw], pointer: str, faults: Faults
) -> tuple[list[int], list[Any]]:
    """Places and values of the parts that can be decoded."""
    if len(parts) > MAX_PARTS:
        faults.add(pointer, f"has {len(parts)} elements, expected at most {MAX_PARTS}", "TOO_MANY")
        return [], []
    places, values = [], []
    for place, part in enumerate(parts):
        value = _part(decoder, part, f"{pointer}/{place}", faults)
        if value is not None:
            places.append(place)
            values.append(value)
    return places, values


def _part(decoder: Any, encoded: bytes | msgspec.Raw, pointer: str, faults: Faults) -> Any:
    try:
        return decoder.decode(encoded)
    except msgspec.ValidationError as error:
        _add(faults, pointer, error)
    except msgspec.DecodeError as error:
        raise Malformed(_words(error)) from None
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        faults.add(pointer, _words(error), "INVALID")
    return None


def _add(faults: Faults, pointer: str, error: msgspec.ValidationError, hint: str = "") -> None:
    detail, _, path = str(error).partition(" - at `")
    where = pointer + _pointer(path.rstrip("`"))
    unknown = _UNKNOWN.search(detail)
    if unknown is not None:
        where += "/" + unknown[1].replace("~", "~0").replace("/", "~1")
    faults.add(where, _expected(detail) + hint, _code(detail))


_UNKNOWN = re.compile(r"unknown field `(.*)`", re.DOTALL)
"""The path of such a fault ends at the object; the field is only in the words."""

_STEP = re.compile(r"\.([A-Za-z_0-9]+)|\[(\d+)\]")


def _pointer(path: str) -> str:
    """`$.layers[2].counts[5]` as /layers/2/counts/5."""
    return "".join(f"/{name or index}" for name, index in _STEP.findall(path))


def _expected(detail: str) -> str:
    return detail[:1].lower() + detail[1:300]


def _code(detail: str) -> str:
    if "missing required field" in detail:
        return "MISSING"
    if "unknown field" in detail:
        return "UNKNOWN_FIELD"
    return "WRONG_TYPE"


def _words(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return " ".join(str(error).split())[:300] or type(error).__name__
