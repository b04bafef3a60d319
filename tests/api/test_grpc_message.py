"""gRPC messages read by hand: the same as protobuf reads them, and nothing copied or expanded."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

from predictor.api.grpc_message import read_grpc
from predictor.api.v2 import grpc_call
from predictor.errors import InvalidInput

MIB = 1024 * 1024

_tensor = st.builds(
    pb.ModelInferRequest.InferInputTensor,
    name=st.sampled_from(["audio", "waveform", "language", "x"]),
    datatype=st.sampled_from(["BYTES", "FP32", "INT8"]),
    shape=st.lists(st.integers(0, 2**62), max_size=3),
    contents=st.none()
    | st.builds(
        pb.InferTensorContents,
        bytes_contents=st.lists(st.binary(max_size=300), max_size=5),
        fp32_contents=st.lists(st.floats(width=32, allow_nan=False), max_size=5),
    ),
)
_request = st.builds(
    pb.ModelInferRequest,
    model_name=st.text(max_size=9),
    model_version=st.text(max_size=3),
    id=st.text(max_size=9),
    inputs=st.lists(_tensor, max_size=3),
)


@settings(deadline=None)
@given(_request)
def test_the_same_as_protobuf_reads(request: pb.ModelInferRequest) -> None:
    read = read_grpc(request.SerializeToString())
    assert (read.model_name, read.model_version) == (request.model_name, request.model_version)
    assert (read.body.id or "") == request.id
    for ours, theirs in zip(read.body.inputs, request.inputs, strict=True):
        assert (ours.name, ours.datatype) == (theirs.name, theirs.datatype)
        assert list(ours.shape) == list(theirs.shape)
        assert ours.values is not None
        if theirs.datatype == "FP32":
            np.testing.assert_array_equal(ours.values, list(theirs.contents.fp32_contents))
        else:
            assert [bytes(v) for v in ours.values] == list(theirs.contents.bytes_contents)


@settings(deadline=None)
@given(_request, st.lists(st.binary(max_size=99), max_size=3))
def test_raw_contents_are_views(request: pb.ModelInferRequest, raw: list[bytes]) -> None:
    for tensor in request.inputs:
        tensor.ClearField("contents")
    request.raw_input_contents.extend(raw)
    message = request.SerializeToString()
    if len(raw) not in (0, len(request.inputs)):
        with pytest.raises(InvalidInput):
            read_grpc(message)
        return
    read = read_grpc(message)
    assert read.is_raw == bool(raw)
    if raw:
        assert [bytes(tensor.raw or b"") for tensor in read.body.inputs] == raw


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_refused(message: bytes) -> None:
    refusal = ""
    try:
        grpc_call(read_grpc(message), 4)
    except InvalidInput as error:
        refusal = error.message
    assert len(refusal) < 600


def _inputs(contents: bytes) -> bytes:
    """A message of one input with these contents, by hand."""

    def part(number: int, data: bytes) -> bytes:
        size, digits = len(data), bytearray()
        while size >= 0x80:
            digits.append(size & 0x7F | 0x80)
            size >>= 7
        return bytes([number << 3 | 2]) + bytes([*digits, size]) + data

    tensor = part(1, b"audio") + part(2, b"BYTES") + part(3, b"\x01") + part(5, contents)
    return part(5, tensor)


HOSTILE = {
    "empty strings": _inputs(b"\x42\x00" * 4 * MIB),
    "empty inputs": b"\x2a\x00" * 4 * MIB,
    "empty raw contents": b"\x3a\x00" * 4 * MIB,
    "numbers of another kind": _inputs(b"\x1a\x80\x80\x80\x01" + b"\x01" * 2 * MIB),
    "floats one by one": _inputs(b"\x35\x00\x00\x00\x00" * MIB),
    "a shape": b"\x2a\x80\x80\x80\x02" + b"\x1a\xfc\xff\xff\x01" + b"\x01" * (4 * MIB - 4),
    "unknown fields": b"\x78\x01" * 4 * MIB,
    "a name": b"\x0a\x80\x80\x80\x02" + b"a" * 4 * MIB,
    "groups": b"\x0b" * MIB,
    "tags without end": b"\xff" * MIB,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_no_message_builds_more_than_it_pays_for(kind: str) -> None:
    message = HOSTILE[kind]
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInput):
            grpc_call(read_grpc(message), 64)
        assert tracemalloc.get_traced_memory()[1] < 2 * len(message) + 4 * MIB
    finally:
        tracemalloc.stop()


def test_large_contents_are_not_copied() -> None:
    audio = bytes(16 * MIB)
    for is_raw in (False, True):
        request = pb.ModelInferRequest(model_name="m")
        tensor = request.inputs.add(name="audio", datatype="BYTES", shape=[1])
        if is_raw:
            request.raw_input_contents.append(struct.pack("<I", len(audio)) + audio)
        else:
            tensor.contents.bytes_contents.append(audio)
        message = request.SerializeToString()
        tracemalloc.start()
        call = grpc_call(read_grpc(message), 4)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(call.recordings[0].data or b"") == len(audio)
        assert peak < MIB
