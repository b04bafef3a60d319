"""A ModelInferRequest off the wire, its large parts left where they are.

protobuf would copy a message twice and make an object of every element, all while it holds the
interpreter. Here the wire format (tag, length, bytes) is walked first: raw contents, strings and
packed floats become views, and protobuf reads the small rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError, Message
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

from predictor.api.infer_body import GrpcTensor, InferBody, grpc_body
from predictor.errors import InvalidInput

MAX_FIELDS: Final = 4096  # of one message, each input's and its contents' counted apart
MAX_REST_BYTES: Final = 512 * 1024  # of a message without its tensors' data
_INPUTS, _RAW = 5, 7  # fields of ModelInferRequest
_CONTENTS = 5  # field of InferInputTensor
_FP32, _BYTES = 6, 8  # fields of InferTensorContents
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5  # wire types; groups are history
_MAX_VARINT_BYTES = 10


@dataclass(frozen=True, slots=True)
class GrpcRequest:
    """What a ModelInfer call asks."""

    model_name: str
    model_version: str
    body: InferBody
    is_raw: bool  # answered in the same way


class _Field(NamedTuple):
    number: int
    wire_type: int
    value: memoryview
    whole: memoryview  # tag and length included


@dataclass(slots=True)
class _Contents:
    strings: list[bytes | memoryview] = field(default_factory=list)
    floats: list[memoryview] = field(default_factory=list)
    is_given: bool = False


def read_grpc(message: bytes) -> GrpcRequest:
    """Raises InvalidInput for what is no ModelInferRequest, or has too many parts."""
    rest, inputs, raw = bytearray(), [], []
    for part in _fields(memoryview(message), "message"):
        if part.number == _INPUTS and part.wire_type == _LENGTH:
            inputs.append(part.value)
        elif part.number == _RAW and part.wire_type == _LENGTH:
            raw.append(part.value)
        else:
            rest += part.whole
    request = _parsed(pb.ModelInferRequest(), rest)
    tensors = [_tensor(view) for view in inputs]
    return GrpcRequest(
        model_name=request.model_name,
        model_version=request.model_version,
        body=grpc_body(request, tensors, raw),
        is_raw=bool(raw),
    )


def _tensor(view: memoryview) -> GrpcTensor:
    rest, contents = bytearray(), _Contents()
    for part in _fields(view, "inputs"):
        if part.number == _CONTENTS and part.wire_type == _LENGTH:
            rest += _read_contents(part.value, contents)
        else:
            rest += part.whole
    tensor = _parsed(pb.ModelInferRequest.InferInputTensor(), rest)
    floats = [np.frombuffer(view, dtype="<f4") for view in contents.floats]
    return GrpcTensor(
        tensor=tensor,
        has_contents=contents.is_given,
        strings=contents.strings,
        floats=floats[0] if len(floats) == 1 else np.concatenate([*floats, _NO_FLOATS]),
    )


_NO_FLOATS: Final = np.zeros(0, dtype="<f4")


def _read_contents(view: memoryview, contents: _Contents) -> bytes:
    """Takes the strings and floats out; other kinds are no use here, whatever they hold."""
    contents.is_given = True
    for part in _fields(view, "contents"):
        if part.number == _BYTES and part.wire_type == _LENGTH:
            contents.strings.append(part.value)
        elif part.number == _FP32 and part.wire_type in (_LENGTH, _FIXED32):
            if len(part.value) % 4:
                raise InvalidInput("contents: fp32_contents are cut off", field="contents")
            contents.floats.append(part.value)
    return b""


def _parsed(message: Any, data: bytearray) -> Any:
    if len(data) > MAX_REST_BYTES:
        raise InvalidInput(
            f"message: more than {MAX_REST_BYTES} bytes besides the tensors' data",
            field="message",
            limit=MAX_REST_BYTES,
        )
    assert isinstance(message, Message)
    try:
        message.ParseFromString(bytes(data))
    except DecodeError as error:
        raise InvalidInput("message: no ModelInferRequest", field="message") from error
    return message


def _fields(view: memoryview, place: str) -> Iterator[_Field]:
    """The fields of one message. Raises InvalidInput where they are not in order."""
    position = count = 0
    while position < len(view):
        start = position
        tag, position = _varint(view, position)
        wire_type = tag & 7
        if wire_type == _LENGTH:
            size, position = _varint(view, position)
        elif wire_type in (_FIXED32, _FIXED64):
            size = 4 if wire_type == _FIXED32 else 8
        elif wire_type == _VARINT:
            size = _varint(view, position)[1] - position
        else:
            raise InvalidInput("message: no ModelInferRequest", field="message")
        end = position + size
        count += 1
        if end > len(view) or count > MAX_FIELDS:
            what = "cut off" if end > len(view) else f"of more than {MAX_FIELDS} parts"
            raise InvalidInput(f"{place}: the message is {what}", field=place, limit=MAX_FIELDS)
        yield _Field(tag >> 3, wire_type, view[position:end], view[start:end])
        position = end


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    """A number of seven bits a byte, and the position behind it."""
    number = 0
    for index, byte in enumerate(view[position : position + _MAX_VARINT_BYTES]):
        number |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return number, position + index + 1
    raise InvalidInput("message: no ModelInferRequest", field="message")
