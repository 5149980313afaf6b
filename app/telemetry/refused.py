"""A part of a window that cannot be taken, and why."""

from app.telemetry.registry import LayerShape, ModelShape


class Refused(Exception):
    """A layer or a set of routes that cannot be taken."""

    def __init__(self, pointer: str, detail: str, code: str) -> None:
        super().__init__(detail)
        self.pointer = pointer
        self.detail = detail
        self.code = code


def shape_of(layer: int, model: ModelShape) -> LayerShape:
    shape = model.layers.get(layer)
    if shape is None:
        raise Refused("/layer", f"the model has no MoE layer {layer}", "UNKNOWN_LAYER")
    return shape


def shown(number: float) -> str:
    # A number of more digits than Python converts to text would raise.
    return str(number) if -(2**64) < number < 2**64 else "a huge number"
