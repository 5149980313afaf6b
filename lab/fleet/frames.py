"""What expert calls look like on the wire.

A connection begins as HTTP/1.1 and is upgraded, so that calls have a URL like everything else of a node:

    GET /v1/expert_calls HTTP/1.1
    Upgrade: moeplace-expert-calls/1
    Connection: Upgrade
    Moeplace-Node: edge-a

After `101 Switching Protocols` both sides send frames: the lengths of head and payload (uint32 each,
little-endian), the head in MessagePack, the payload. A call's payload is the hidden states, each once,
float32 [rows, width]; its head names pairs of a row and an expert. The answer's payload is what the experts
made of them, float32 [pairs, width], zeros for the pairs whose expert is not there.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

PATH = "/v1/expert_calls"
PROTOCOL = "moeplace-expert-calls/1"
NODE_HEADER = "Moeplace-Node"

PROBE_LAYER = -1
"""Not a layer of the model: an expert that everybody has, for measuring what a call costs."""

MAX_PAIRS = 4096
_MAX_HEAD_BYTES = 1 << 17
_MAX_PAYLOAD_BYTES = 1 << 23
_LENGTHS = struct.Struct("<II")

Float32 = npt.NDArray[np.float32]


class MalformedFrame(Exception):
    """The other side does not speak the protocol; in words."""


class Call(msgspec.Struct, frozen=True, array_like=True):
    """Pair i asks expert `experts[i]` of the layer about row `rows[i]` of the payload."""

    number: int
    model_id: str
    layer: int
    rows: list[int]
    experts: list[int]


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """`missing`: the pairs whose expert is not here."""

    number: int
    missing: list[int]


_Head = TypeVar("_Head", Call, Answer)


def encode(head: Call | Answer, payload: Float32) -> bytes:
    packed = msgspec.msgpack.encode(head)
    data = np.ascontiguousarray(payload, dtype="<f4").tobytes()
    return _LENGTHS.pack(len(packed), len(data)) + packed + data


class Frames:
    """Cuts received bytes into frames of one kind."""

    def __init__(self, kind: type[Call] | type[Answer], width: int) -> None:
        self._decoder = msgspec.msgpack.Decoder(kind)
        self._width = width
        self._received = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Call | Answer, Float32]]:
        """The frames that `data` completes. Raises `MalformedFrame`."""
        self._received += data
        while len(self._received) >= _LENGTHS.size:
            head, payload = _LENGTHS.unpack_from(self._received)
            if head > _MAX_HEAD_BYTES or payload > _MAX_PAYLOAD_BYTES or payload % (4 * self._width):
                raise MalformedFrame(f"a frame of {head} and {payload} bytes")
            end = _LENGTHS.size + head + payload
            if len(self._received) < end:
                return
            frame = bytes(self._received[_LENGTHS.size : end])
            del self._received[:end]
            try:
                decoded: Call | Answer = self._decoder.decode(frame[:head])
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise MalformedFrame(str(error)) from None
            yield decoded, np.frombuffer(frame, "<f4", offset=head).reshape(-1, self._width)


def check_call(call: Call, payload: Float32) -> None:
    """Raises `MalformedFrame` where the head and the payload do not fit together."""
    if len(call.rows) != len(call.experts) or len(call.rows) > MAX_PAIRS:
        raise MalformedFrame(f"{len(call.rows)} rows for {len(call.experts)} experts")
    if any(not 0 <= row < len(payload) for row in call.rows):
        raise MalformedFrame(f"a row outside 0..{len(payload) - 1}")


def check_answer(call: Call, answer: Answer, payload: Float32) -> None:
    """Raises `MalformedFrame` where the answer does not fit its call."""
    if len(payload) != len(call.rows) or any(not 0 <= pair < len(call.rows) for pair in answer.missing):
        raise MalformedFrame(f"an answer of {len(payload)} rows to {len(call.rows)} pairs")
