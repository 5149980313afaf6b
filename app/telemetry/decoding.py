"""A window from the bytes of one JSON or MessagePack value.

What is well formed is decoded in one go. Where that fails the value is taken apart, so that a fault in one
layer or in one set of routes costs no more than that layer or set.
"""

import re
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

import msgspec

from app.telemetry.faults import Faults
from app.telemetry.schemas import LayerCounts, LayerRoutes, StepTime, Window


class Format(Enum):
    JSON = "JSON"
    MSGPACK = "MessagePack"


class Malformed(ValueError):
    """Not a value of the format at all."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """layers and routes: (index in the body, part), without those that could not be decoded."""

    window: Window
    layers: list[tuple[int, LayerCounts]]
    routes: list[tuple[int, LayerRoutes]]
    layers_given: bool


_TYPED: dict[Format, Any] = {
    Format.JSON: msgspec.json.Decoder(Window),
    Format.MSGPACK: msgspec.msgpack.Decoder(Window),
}
_UNTYPED: dict[Format, Any] = {
    Format.JSON: msgspec.json.Decoder(),
    Format.MSGPACK: msgspec.msgpack.Decoder(),
}


def decode(body: bytes, form: Format, faults: Faults) -> Decoded | None:
    """None when the window cannot be taken at all, which `faults` then explains. Raises `Malformed`."""
    try:
        window: Window = _TYPED[form].decode(body)
    except msgspec.ValidationError:
        return _take_apart(body, form, faults)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Malformed(f"not {form.value}: {_words(error)}") from None
    return Decoded(
        window, list(enumerate(window.layers)), list(enumerate(window.routes)), bool(window.layers)
    )


def _take_apart(body: bytes, form: Format, faults: Faults) -> Decoded | None:
    try:
        value = _UNTYPED[form].decode(body)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        raise Malformed(f"not {form.value}: {_words(error)}") from None
    if not isinstance(value, dict):
        faults.add("", f"expected an object, got {_kind(value)}", "WRONG_TYPE")
        return None
    given: dict[str, list[Any]] = {}
    for name in ("layers", "routes"):
        part = value.get(name, [])
        if not isinstance(part, list):
            faults.add(f"/{name}", f"expected an array, got {_kind(part)}", "WRONG_TYPE")
            return None
        given[name] = part
    envelope = {**value, "routes": []}
    if "layers" in value:
        envelope["layers"] = []
    step_time = value.get("step_time_seconds")
    envelope["step_time_seconds"] = None
    window = _convert(envelope, Window, "", faults)
    if window is None:
        return None
    if step_time is not None:
        converted = _convert(step_time, StepTime, "/step_time_seconds", faults)
        window = msgspec.structs.replace(window, step_time_seconds=converted)
    layers = _convert_each(given["layers"], LayerCounts, "/layers", faults)
    routes = _convert_each(given["routes"], LayerRoutes, "/routes", faults)
    return Decoded(window, layers, routes, bool(given["layers"]))


T = TypeVar("T")


def _convert_each(parts: list[Any], wanted: type[T], pointer: str, faults: Faults) -> list[tuple[int, T]]:
    found = []
    for index, part in enumerate(parts):
        converted = _convert(part, wanted, f"{pointer}/{index}", faults)
        if converted is not None:
            found.append((index, converted))
    return found


def _convert(value: Any, wanted: type[T], pointer: str, faults: Faults) -> T | None:
    try:
        return msgspec.convert(value, wanted)
    except msgspec.ValidationError as error:
        detail, _, path = str(error).partition(" - at `")
        faults.add(pointer + _pointer(path.rstrip("`")), _expected(detail), _code(detail))
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        faults.add(pointer, _words(error), "INVALID")
    return None


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


def _kind(value: Any) -> str:
    return {list: "an array", dict: "an object", str: "a string", type(None): "null", bool: "a boolean"}.get(
        type(value), "a number" if isinstance(value, int | float) else "something else"
    )


def _words(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return " ".join(str(error).split())[:300] or type(error).__name__
