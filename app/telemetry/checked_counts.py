"""The counts of a window that can be taken, of all its layers together."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

import msgspec
import numpy as np
import numpy.typing as npt

from app.telemetry.faults import Faults
from app.telemetry.packed import COUNT, EXPERT, MAX_COUNT, NO_EXPERT, POSITION
from app.telemetry.refused import Refused, shape_of, shown
from app.telemetry.registry import LayerShape, ModelShape
from app.telemetry.rows import Rows
from app.telemetry.schemas import LayerCounts

Ids = npt.NDArray[np.uint16]


class Counts(msgspec.Struct, frozen=True):
    """As in `PackedWindow`, not narrowed yet, and of any shape."""

    layers: tuple[int, ...] | None
    counts: npt.NDArray[np.uint32]
    experts: bytes | None


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer that can be taken. ids: whose counts they are; None: one for each expert."""

    layer: int
    counts: npt.NDArray[np.uint32]
    ids: Ids | None


def counts_of(
    layers: Sequence[LayerCounts], places: Sequence[int] | None, model: ModelShape, faults: Faults
) -> Counts:
    """Of the layers that can be taken, `places` being their indexes in the body; of others `faults` tells."""
    return _all(layers, model) or _some(_layers(layers, places, model, faults), model)


_layer_of, _counts_of, _ids_of = map(attrgetter, ("layer", "counts", "expert_ids"))


def _all(layers: Sequence[LayerCounts], model: ModelShape) -> Counts | None:
    """What agents send: all layers in order, each with all its counts, packed. None for anything else."""
    if isinstance(layers, Rows):
        if layers.numbers != model.order or layers.count_bytes != model.count_bytes:
            return None
        return Counts(None, layers.counts, None)
    if tuple(map(_layer_of, layers)) != model.order or list(map(_ids_of, layers)).count(None) != len(layers):
        return None
    counts = list(map(_counts_of, layers))
    if tuple(map(len, counts)) != model.count_bytes:
        return None
    try:
        return Counts(None, np.frombuffer(b"".join(counts), COUNT), None)
    except TypeError:  # a list among them
        return None


def _some(layers: list[_Layer], model: ModelShape) -> Counts:
    """Any layers, dense or sparse, in the model's order; sparse where that is shorter."""
    layers.sort(key=lambda layer: model.offset[layer.layer])
    numbers = tuple(layer.layer for layer in layers)
    counts = [layer.counts for layer in layers]
    listed = sum(map(len, counts))
    experts = sum(model.layers[number].experts for number in numbers)
    if 3 * listed < experts:
        places = [
            (np.arange(len(layer.counts)) if layer.ids is None else layer.ids).astype(POSITION)
            + POSITION.type(model.offset[layer.layer])
            for layer in layers
        ]
        return Counts(numbers, _joined(counts), _joined(places).tobytes())
    dense = []
    for layer in layers:
        if layer.ids is None:
            dense.append(layer.counts)
        else:
            spread = np.zeros(model.layers[layer.layer].experts, COUNT)
            spread[layer.ids] = layer.counts
            dense.append(spread)
    return Counts(None if numbers == model.order else numbers, _joined(dense), None)


def _joined(parts: Sequence[npt.NDArray[np.uint32]]) -> npt.NDArray[np.uint32]:
    return np.concatenate(parts) if parts else np.zeros(0, COUNT)


def _layers(
    given: Sequence[LayerCounts], places: Sequence[int] | None, model: ModelShape, faults: Faults
) -> list[_Layer]:
    taken: dict[int, _Layer] = {}
    for index, layer in zip(places or range(len(given)), given, strict=True):
        try:
            if layer.layer in taken:
                raise Refused("/layer", f"layer {layer.layer} is named twice", "REPEATED_LAYER")
            taken[layer.layer] = _layer(layer, shape_of(layer.layer, model))
        except Refused as refused:
            faults.add(f"/layers/{index}{refused.pointer}", refused.detail, refused.code)
    return list(taken.values())


def _layer(layer: LayerCounts, shape: LayerShape) -> _Layer:
    packed = _packed_numbers(layer.counts, "/counts", COUNT, MAX_COUNT, "counts")
    counts = np.frombuffer(packed, COUNT)
    number = len(counts)
    if layer.expert_ids is None:
        if number != shape.experts:
            raise Refused(
                "/counts",
                f"has {number} counts, expected {shape.experts}, one per expert of layer {shape.layer}",
                "WRONG_LENGTH",
            )
        return _Layer(shape.layer, counts, None)
    packed = _packed_numbers(layer.expert_ids, "/expert_ids", EXPERT, NO_EXPERT - 1, "expert ids")
    ids = np.frombuffer(packed, EXPERT)
    if len(ids) != number:
        raise Refused(
            "/counts", f"has {number} counts, expected {len(ids)}, one per expert_ids", "WRONG_LENGTH"
        )
    outside = ids >= shape.experts
    if outside.any():
        at = int(np.argmax(outside))
        raise Refused(
            f"/expert_ids/{at}", f"is {ids[at]}, expected 0..{shape.experts - 1}", "EXPERT_OUT_OF_RANGE"
        )
    order = np.argsort(ids, kind="stable")
    repeated = ids[order[1:]] == ids[order[:-1]]
    if repeated.any():
        at = int(order[1:][repeated].min())
        raise Refused(f"/expert_ids/{at}", f"expert {ids[at]} is named twice", "REPEATED_EXPERT")
    return _Layer(shape.layer, counts, ids)


def _packed_numbers(
    given: Sequence[int] | bytes,
    pointer: str,
    dtype: "np.dtype[np.uint32] | np.dtype[np.uint16]",
    limit: int,
    what: str,
) -> bytes:
    """Little-endian bytes of whole numbers in 0..limit."""
    if isinstance(given, bytes):
        if len(given) % dtype.itemsize:
            raise Refused(
                pointer,
                f"has {len(given)} bytes, expected {what} of {dtype.itemsize} bytes each, little-endian",
                "WRONG_LENGTH",
            )
        return given
    try:
        numbers = np.asarray(given, np.int64)
        bad = (numbers < 0) | (numbers > limit)
    except OverflowError:
        bad = np.asarray([not 0 <= number <= limit for number in given], np.bool_)
        numbers = np.zeros(0, np.int64)
    if bad.any():
        at = int(np.argmax(bad))
        raise Refused(f"{pointer}/{at}", f"is {shown(given[at])}, expected 0..{limit}", "OUT_OF_RANGE")
    return numbers.astype(dtype).tobytes()
