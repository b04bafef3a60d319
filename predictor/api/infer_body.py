"""V2 requests off the wire: JSON, the binary extension, and gRPC, with or without raw contents.

KServe's own reader trusts lengths, datatypes and shapes, and turns raw tensors into Python lists;
this one checks first and copies nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from numpy.typing import NDArray

from predictor.api.json_body import LongText, load_json
from predictor.api.json_numbers import whole_number
from predictor.api.tensors import (
    MAX_DIMENSIONS,
    MAX_NAME_CHARS,
    Parameters,
    Tensor,
    refuse_unknown,
)
from predictor.errors import InvalidInput

MAX_INPUTS = 16
MAX_OUTPUTS = 16
_MAX_LENGTH_DIGITS = 19
_MAX_ID_CHARS = 256


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """One output the caller wants; `binary` is None when it leaves the form to us."""

    name: str
    binary: bool | None = None


@dataclass(frozen=True, slots=True)
class InferBody:
    """A V2 inference request off the wire, not yet understood."""

    id: str | None
    inputs: tuple[Tensor, ...]
    outputs: tuple[RequestedOutput, ...]
    parameters: Parameters


def parse_rest(body: bytes | bytearray, json_length: str | None) -> InferBody:
    """A V2 REST request; `json_length` is the header Inference-Header-Content-Length or None."""
    view = memoryview(body)
    size = len(body)
    if json_length is not None:
        size = _length(json_length)
        if not 0 <= size <= len(body):
            raise InvalidInput(
                "Inference-Header-Content-Length: must be a length within the body",
                field="Inference-Header-Content-Length",
                limit=len(body),
            )
    content = load_json(body if size == len(body) else view[:size])
    refuse_unknown(content, ("id", "parameters", "inputs", "outputs", "model_name"), "body")
    request_id = content.get("id")
    if request_id is not None:
        request_id = _id(request_id)
    raw = _RawParts(view[size:])
    items = _objects(content.get("inputs"), "inputs", MAX_INPUTS)
    inputs = tuple(_rest_input(item, raw) for item in items)
    raw.finish()
    outputs = tuple(
        _rest_output(item) for item in _objects(content.get("outputs", []), "outputs", MAX_OUTPUTS)
    )
    return InferBody(request_id, inputs, outputs, _parameters(content.get("parameters")))


@dataclass(frozen=True, slots=True)
class GrpcTensor:
    """One input of a gRPC request; its contents, when it has any, as views of the message."""

    tensor: pb.ModelInferRequest.InferInputTensor  # without its contents
    has_contents: bool
    strings: Sequence[bytes | memoryview]
    floats: NDArray[np.float32]


def grpc_body(
    request: pb.ModelInferRequest, inputs: Sequence[GrpcTensor], raw: Sequence[memoryview]
) -> InferBody:
    """A V2 gRPC request, with contents or raw contents; `request` is the message without them."""
    _check_number(len(inputs), "inputs", MAX_INPUTS)
    _check_number(len(request.outputs), "outputs", MAX_OUTPUTS)
    if len(raw) not in (0, len(inputs)):
        raise InvalidInput(
            f"raw_input_contents: {len(raw)} parts for {len(inputs)} inputs",
            field="raw_input_contents",
            value=len(raw),
            limit=len(inputs),
        )
    parts: Sequence[memoryview | None] = raw or [None] * len(inputs)
    return InferBody(
        id=_id(request.id) or None,
        inputs=tuple(_grpc_input(item, part) for item, part in zip(inputs, parts, strict=True)),
        outputs=tuple(_grpc_output(output) for output in request.outputs),
        parameters=_grpc_parameters(request.parameters),
    )


def _grpc_input(item: GrpcTensor, raw: memoryview | None) -> Tensor:
    tensor = item.tensor
    _short(tensor.name, "name", "inputs")
    if raw is not None and item.has_contents:
        raise InvalidInput(
            f"{tensor.name}: contents and raw_input_contents exclude each other", field=tensor.name
        )
    parameters = dict(_grpc_parameters(tensor.parameters))
    size = parameters.pop("binary_data_size", None)  # KServe's client sends it here as well
    if size is not None and (raw is None or size != len(raw)):
        raise InvalidInput(
            f"{tensor.name}: binary_data_size is not the size of its raw contents",
            field=tensor.name,
        )
    contents: Sequence[Any] | NDArray[np.float32] = item.strings
    if tensor.datatype == "FP32":
        contents = item.floats
    return Tensor(
        name=tensor.name,
        datatype=tensor.datatype,
        shape=_shape(list(tensor.shape[: MAX_DIMENSIONS + 1]), tensor.name),
        raw=raw,
        values=contents if raw is None else None,
        parameters=parameters,
    )


def _grpc_output(output: pb.ModelInferRequest.InferRequestedOutputTensor) -> RequestedOutput:
    # Raw contents are answered by raw contents, so `binary_data` has nothing to decide here.
    parameters = dict(_grpc_parameters(output.parameters))
    parameters.pop("binary_data", None)
    refuse_unknown(parameters, (), output.name[:MAX_NAME_CHARS])
    return RequestedOutput(_short(output.name, "name", "outputs"))


def _length(header: str) -> int:
    """The header's number, -1 when it is none; few digits, since many take long to read."""
    if not (header.isascii() and header.isdigit() and len(header) <= _MAX_LENGTH_DIGITS):
        return -1
    return int(header)


class _RawParts:
    """The binary part of a REST body, given out in order."""

    def __init__(self, data: memoryview) -> None:
        self._data = data

    def take(self, name: str, given: object) -> memoryview:
        size = whole_number(given)
        if size is None or not 0 <= size <= len(self._data):
            raise InvalidInput(
                f"{name}: binary_data_size must be within the {len(self._data)} bytes left",
                field=name,
                limit=len(self._data),
            )
        part, self._data = self._data[:size], self._data[size:]
        return part

    def finish(self) -> None:
        if len(self._data):
            raise InvalidInput(
                f"body: {len(self._data)} bytes belong to no input's binary_data_size",
                field="body",
                value=len(self._data),
            )


def _rest_input(item: dict[str, Any], raw: _RawParts) -> Tensor:
    name = _text(item, "name", "inputs")
    refuse_unknown(item, ("name", "datatype", "shape", "data", "parameters"), name)
    parameters = dict(_parameters(item.get("parameters")))
    size = parameters.pop("binary_data_size", None)
    data = item.get("data")
    if (size is None) == (data is None):
        raise InvalidInput(f"{name}: needs data or binary_data_size, one of them", field=name)
    if data is not None and not isinstance(data, list | np.ndarray):
        raise InvalidInput(f"{name}: data must be a list", field=name)
    return Tensor(
        name=name,
        datatype=_text(item, "datatype", name),
        shape=_shape(item.get("shape"), name),
        raw=None if size is None else raw.take(name, size),
        values=data,
        parameters=parameters,
    )


def _rest_output(item: dict[str, Any]) -> RequestedOutput:
    name = _text(item, "name", "outputs")
    refuse_unknown(item, ("name", "parameters"), name)
    parameters = dict(_parameters(item.get("parameters")))
    binary = parameters.pop("binary_data", None)
    refuse_unknown(parameters, (), name)
    if binary is not None and not isinstance(binary, bool):
        raise InvalidInput(f"{name}: binary_data must be true or false", field=name)
    return RequestedOutput(name, binary)


def _objects(value: object, place: str, limit: int) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise InvalidInput(f"{place}: must be a list of objects", field=place)
    _check_number(len(value), place, limit)
    if not all(isinstance(item, dict) for item in value):
        raise InvalidInput(f"{place}: must be a list of objects", field=place)
    return value


def _check_number(number: int, place: str, limit: int) -> None:
    if number > limit:
        raise InvalidInput(
            f"{place}: {number} of them, the limit is {limit}",
            field=place,
            value=number,
            limit=limit,
        )


def _id(value: object) -> str:
    if not isinstance(value, str) or len(value) > _MAX_ID_CHARS:
        raise InvalidInput(
            f"id: must be a string of at most {_MAX_ID_CHARS} characters",
            field="id",
            limit=_MAX_ID_CHARS,
        )
    return value


def _text(item: Mapping[str, Any], key: str, place: str) -> str:
    value = item.get(key)
    if not isinstance(value, str) or not value:
        raise InvalidInput(f"{place}: {key} must be a string", field=key)
    return _short(value, key, place)


def _short(value: str, key: str, place: str) -> str:
    """Names come back in errors and logs, so they may not be long."""
    if len(value) > MAX_NAME_CHARS:
        raise InvalidInput(
            f"{place}: {key} of {len(value)} characters, the limit is {MAX_NAME_CHARS}",
            field=key,
            value=len(value),
            limit=MAX_NAME_CHARS,
        )
    return value


def _shape(value: object, name: str) -> tuple[int, ...]:
    if isinstance(value, list) and len(value) <= MAX_DIMENSIONS:
        numbers = [whole_number(size) for size in value]
        sizes = tuple(size for size in numbers if size is not None and size >= 0)
        if len(sizes) == len(value):
            return sizes
    raise InvalidInput(
        f"{name}: shape must be a list of at most {MAX_DIMENSIONS} sizes", field=name
    )


def _parameters(value: object) -> Parameters:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidInput("parameters: must be an object of plain values", field="parameters")
    plain = {
        key: item.text(field=key[:MAX_NAME_CHARS]) if isinstance(item, LongText) else item
        for key, item in value.items()
    }
    if not all(isinstance(item, str | int | float | bool) for item in plain.values()):
        raise InvalidInput("parameters: must be an object of plain values", field="parameters")
    return plain


def _grpc_parameters(parameters: Mapping[str, pb.InferParameter]) -> Parameters:
    values: dict[str, bool | int | float | str] = {}
    for key, parameter in parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        if kind is None:
            raise InvalidInput(f"parameters: {key[:MAX_NAME_CHARS]} has no value", field=key)
        values[key] = getattr(parameter, kind)
    return values
