"""The Open Inference Protocol: what its tensors mean here, and how answers become tensors.

Inputs: `audio` BYTES [n] (an encoded recording each) or `waveform` FP32 [samples] or [n, samples]
with parameter `sample_rate`; optional `language`, `context` and `draft` BYTES [n], or parameters.
Outputs: `text`, `language` BYTES [n], `confidence`, `duration` FP32 [n], `details` BYTES [n].
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import orjson
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

from predictor.api.details import details
from predictor.api.grpc_message import GrpcRequest
from predictor.api.hearing import HEARING_FIELDS, read_hearing
from predictor.api.infer_body import InferBody, RequestedOutput
from predictor.api.json_numbers import whole_number
from predictor.api.tensors import Parameters, Tensor, checked_draft
from predictor.api.words import WORDS_FIELD, read_words
from predictor.errors import InvalidInput
from predictor.service.calls import Call, Recording
from predictor.text.languages import parse_language
from predictor.types import Transcription

INPUTS = (
    {"name": "audio", "datatype": "BYTES", "shape": [-1]},
    {"name": "waveform", "datatype": "FP32", "shape": [-1, -1]},
    {"name": "language", "datatype": "BYTES", "shape": [-1]},
    {"name": "context", "datatype": "BYTES", "shape": [-1]},
    {"name": "draft", "datatype": "BYTES", "shape": [-1]},
)
OUTPUTS = (
    {"name": "text", "datatype": "BYTES", "shape": [-1]},
    {"name": "language", "datatype": "BYTES", "shape": [-1]},
    {"name": "confidence", "datatype": "FP32", "shape": [-1]},
    {"name": "duration", "datatype": "FP32", "shape": [-1]},
    {"name": "details", "datatype": "BYTES", "shape": [-1]},
)
_OUTPUT_NAMES = tuple(str(output["name"]) for output in OUTPUTS)
_PARAMETERS = (
    "language",
    "context",
    "draft",
    "sample_rate",
    "binary_data_output",
    WORDS_FIELD,
    *HEARING_FIELDS,
)


@dataclass(frozen=True, slots=True)
class RestAnswer:
    """Body of a V2 REST answer; `json_length` is set when binary tensors follow the JSON."""

    body: bytes
    json_length: int | None


def rest_call(
    body: InferBody, model_name: str, max_items: int, *, version: str | None = None
) -> Call:
    """The call of a REST request; it renders a RestAnswer. Raises InvalidInput.

    `version` is the one in the path, given back as KServe's own server does.
    """
    model = {"model_name": model_name} | ({"model_version": version} if version else {})
    default_binary = body.parameters.get("binary_data_output", False)
    if not isinstance(default_binary, bool):
        raise InvalidInput("binary_data_output: must be true or false", field="binary_data_output")

    def render(answers: list[Transcription]) -> RestAnswer:
        return _render_rest(answers, body, model, default_binary)

    return _call(body, max_items, "v2", render)


def grpc_call(request: GrpcRequest, max_items: int) -> Call:
    """The call of a gRPC request; it renders a ModelInferResponse. Raises InvalidInput."""

    def render(answers: list[Transcription]) -> pb.ModelInferResponse:
        return _render_grpc(answers, request)

    return _call(request.body, max_items, "grpc", render)


def _call(
    body: InferBody,
    max_items: int,
    protocol: str,
    render: Callable[[list[Transcription]], Any],
) -> Call:
    inputs = _by_name(body.inputs)
    for output in body.outputs:
        if output.name not in _OUTPUT_NAMES:
            shown = output.name[:60]
            raise InvalidInput(
                f"outputs: unknown output {shown!r}, known are {', '.join(_OUTPUT_NAMES)}",
                field="outputs",
                value=shown,
                limit=list(_OUTPUT_NAMES),
            )
    for key in body.parameters:
        if key not in _PARAMETERS:
            raise InvalidInput(
                f"parameters: unknown {key[:60]!r}, known are {', '.join(_PARAMETERS)}",
                field=key[:60],
                limit=list(_PARAMETERS),
            )
    recordings = _recordings(inputs, body.parameters, max_items)
    languages = _per_item(inputs, body.parameters, "language", len(recordings))
    contexts = _per_item(inputs, body.parameters, "context", len(recordings))
    drafts = _per_item(inputs, body.parameters, "draft", len(recordings))
    hearing = read_hearing(body.parameters)
    with_words = read_words(body.parameters)
    complete = tuple(
        replace(
            recording,
            language=_language(languages[index], index),
            context=contexts[index],
            draft=checked_draft(drafts[index]),
            hearing=hearing,
            with_words=with_words,
        )
        for index, recording in enumerate(recordings)
    )
    return Call(protocol, complete, render, indexed=True)


def _by_name(inputs: Sequence[Tensor]) -> dict[str, Tensor]:
    known = [str(spec["name"]) for spec in INPUTS]
    by_name: dict[str, Tensor] = {}
    for tensor in inputs:
        if tensor.name not in known:
            shown = tensor.name[:60]
            raise InvalidInput(
                f"inputs: unknown input {shown!r}, known are {', '.join(known)}",
                field="inputs",
                value=shown,
                limit=known,
            )
        if tensor.name in by_name:
            raise InvalidInput(f"inputs: {tensor.name} is given twice", field=tensor.name)
        by_name[tensor.name] = tensor
    if ("audio" in by_name) == ("waveform" in by_name):
        raise InvalidInput("inputs: needs audio or waveform, one of them", field="inputs")
    return by_name


def _recordings(
    inputs: dict[str, Tensor], parameters: Parameters, max_items: int
) -> list[Recording]:
    for name, tensor in inputs.items():
        for key in tensor.parameters:
            if (name, key) != ("waveform", "sample_rate"):
                raise InvalidInput(f"{name}: unknown parameter {key[:60]!r}", field=name)
    if "audio" in inputs:
        if "sample_rate" in parameters:
            raise InvalidInput(
                "sample_rate: goes with waveform, audio says its own", field="sample_rate"
            )
        _check_count(inputs["audio"].num_strings(), max_items)
        return [Recording(data=data) for data in inputs["audio"].byte_strings(base64_text=True)]
    waveform = inputs["waveform"]
    _check_count(waveform.num_waveforms(), max_items)
    rates = {**parameters, **waveform.parameters}
    sample_rate = whole_number(rates.get("sample_rate"))
    if sample_rate is None or sample_rate <= 0:
        raise InvalidInput(
            "sample_rate: waveform needs this parameter, a whole number of Hz", field="sample_rate"
        )
    return [
        Recording(waveform=row, sample_rate_hz=sample_rate, field="waveform")
        for row in waveform.floats()
    ]


def _check_count(number: int, max_items: int) -> None:
    """Before anything is made of the elements: the shape alone says how many there are."""
    if not 1 <= number <= max_items:
        raise InvalidInput(
            f"inputs: {number} recordings, the limit is 1 to {max_items}",
            field="inputs",
            value=number,
            limit=max_items,
        )


def _per_item(
    inputs: dict[str, Tensor], parameters: Parameters, name: str, count: int
) -> Sequence[str]:
    """A text for each recording, from the input or the parameter of this name; "" when neither."""
    tensor, parameter = inputs.get(name), parameters.get(name)
    if tensor is not None:
        if parameter is not None:
            raise InvalidInput(f"{name}: given as input and as parameter", field=name)
        if tensor.num_strings() != count:
            raise InvalidInput(
                f"{name}: {tensor.num_strings()} elements for {count} recordings",
                field=name,
                value=tensor.num_strings(),
                limit=count,
            )
        return tensor.texts()
    if parameter is not None and not isinstance(parameter, str):
        raise InvalidInput(f"{name}: must be a string", field=name)
    return [parameter or ""] * count


def _language(given: str, index: int) -> str | None:
    try:
        return parse_language(given)
    except InvalidInput as error:
        raise error.at(index) from error


def _columns(answers: Sequence[Transcription]) -> dict[str, list[Any]]:
    """The answers by output: strings and floats."""
    return {
        "text": [answer.text for answer in answers],
        "language": [answer.language or "None" for answer in answers],
        "confidence": [answer.confidence for answer in answers],
        "duration": [answer.duration_s for answer in answers],
        "details": [orjson.dumps(details(answer)).decode() for answer in answers],
    }


def _requested(body: InferBody) -> Sequence[RequestedOutput]:
    return body.outputs or tuple(RequestedOutput(name) for name in _OUTPUT_NAMES)


def _raw(values: Sequence[Any]) -> bytes:
    """Values of one output in V2's raw form."""
    if values and isinstance(values[0], str):
        encoded = [value.encode() for value in values]
        return b"".join(struct.pack("<I", len(item)) + item for item in encoded)
    return np.asarray(values, dtype="<f4").tobytes()


def _datatype(name: str) -> str:
    return next(str(output["datatype"]) for output in OUTPUTS if output["name"] == name)


def _render_rest(
    answers: list[Transcription], body: InferBody, model: dict[str, str], default_binary: bool
) -> RestAnswer:
    columns, outputs, parts = _columns(answers), [], []
    for requested in _requested(body):
        values = columns[requested.name]
        output: dict[str, Any] = {
            "name": requested.name,
            "shape": [len(answers)],
            "datatype": _datatype(requested.name),
        }
        if default_binary if requested.binary is None else requested.binary:
            parts.append(_raw(values))
            output["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            output["data"] = values
        outputs.append(output)
    head = orjson.dumps({**model, "id": body.id or uuid.uuid4().hex, "outputs": outputs})
    if not parts:
        return RestAnswer(head + b"\n", None)
    return RestAnswer(b"".join([head, *parts]), len(head))


def _render_grpc(answers: list[Transcription], request: GrpcRequest) -> pb.ModelInferResponse:
    columns = _columns(answers)
    response = pb.ModelInferResponse(
        model_name=request.model_name,
        model_version=request.model_version,
        id=request.body.id or uuid.uuid4().hex,
    )
    for requested in _requested(request.body):
        values = columns[requested.name]
        output = response.outputs.add(
            name=requested.name, datatype=_datatype(requested.name), shape=[len(answers)]
        )
        if request.is_raw:
            response.raw_output_contents.append(_raw(values))
        elif output.datatype == "BYTES":
            output.contents.bytes_contents.extend(value.encode() for value in values)
        else:
            output.contents.fp32_contents.extend(values)
    return response
