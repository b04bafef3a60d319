"""Large JSON bodies: the same answer as the json module gives, and no more memory than they pay."""

from __future__ import annotations

import base64
import binascii
import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictor.api import json_body
from predictor.api.infer_body import parse_rest
from predictor.api.json_body import LongText, decode_base64, load_json
from predictor.api.v1 import v1_call
from predictor.api.v2 import rest_call
from predictor.errors import InvalidInput

MIB = 1024 * 1024
ONES = ",".join(["1"] * 9000)
PAD = " " * (json_body.SMALL_BODY_BYTES + 1)


def _plain(value: Any) -> Any:
    """The parts that were taken out, as the json module would have given them."""
    if isinstance(value, LongText):
        return value.text(field="x")
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


_texts = st.text(max_size=20) | st.text('\\"/ü[]{},:\n', min_size=1, max_size=30).map(
    lambda text: text * 300
)
_numbers = st.lists(
    st.integers(-9999, 9999) | st.floats(width=32, allow_nan=False, allow_infinity=False),
    max_size=30,
)
_long_numbers = st.lists(
    st.integers(-9999, 9999) | st.floats(-1e3, 1e3, width=32), min_size=1, max_size=9
).map(lambda values: values * 900)
_values = st.recursive(
    _texts | _numbers | _long_numbers | st.none() | st.booleans(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)


@settings(deadline=None, max_examples=40)
@given(st.dictionaries(st.text(max_size=9), _values, max_size=5), st.booleans())
def test_a_large_body_reads_as_the_json_module_reads_it(
    body: dict[str, Any], is_ascii: bool
) -> None:
    text = json.dumps({**body, "pad": ""}, ensure_ascii=is_ascii).replace('"pad"', PAD + '"pad"')
    read = _plain(load_json(text.encode()))
    assert read == {**body, "pad": ""}


@pytest.mark.parametrize(
    "text",
    [
        '{"a": [1,2',
        '{"a": "x',
        '{"a": [' + ONES + ",]}",
        '{"a": [,' + ONES + "]}",
        '{"a": [' + ONES + " 1 2]}",
        '{"a": [' + "1" * 300_000 + "]}",
        '{"a": [' + ONES + "]]}",
        '{"a": [' + ONES + "}",
        '{"a": [' + ONES + ",true]}",
        '{"a": [' + ONES + ",null]}",
        '{"a": [' + ONES + ',"b"]}',
        '{"a": {"b": 1}} trailing',
    ],
)
def test_a_large_body_that_is_not_right_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        load_json((text + PAD).encode())


def _peak(body: bytes) -> int:
    """Most bytes that reading a V2 body allocates."""
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInput):
            rest_call(parse_rest(body, None), "m", 64)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _v2(data: bytes, *, shape: str = "[1]", datatype: str = "FP32") -> bytes:
    name = "waveform" if datatype == "FP32" else "audio"
    head = '{"parameters":{"sample_rate":16000},"inputs":[{"name":"%s","datatype":"%s","shape":%s,'
    return (head % (name, datatype, shape)).encode() + b'"data":[' + data + b"]}]}"


HOSTILE = {
    "one long string among short ones": _v2(b'"' + b"x" * MIB + b'"' + b',"a"' * 3000),
    "the same below the size of a large body": _v2(b'"' + b"x" * 70_000 + b'"' + b',"a"' * 2000),
    "empty lists": _v2(b",".join([b"[]"] * 2 * MIB)),
    "empty objects": _v2(b",".join([b"{}"] * 2 * MIB)),
    "lists in lists": _v2(b"[" * MIB + b"]" * MIB),
    "empty strings": _v2(b",".join([b'""'] * 2 * MIB), datatype="BYTES"),
    "nulls": _v2(b",".join([b"null"] * 2 * MIB)),
    "inputs": b'{"inputs":[' + b",".join([b"{}"] * 2 * MIB) + b"]}",
    "outputs": b'{"inputs":[],"outputs":[' + b",".join([b"1"] * 2 * MIB) + b"]}",
    "keys": b"{" + b",".join(b'"%x":0' % number for number in range(MIB // 4)) + b"}",
    "a name": _v2(b"").replace(b"waveform", b"w" * 2 * MIB),
    "backslashes": b'{"a":"' + b"\\" * 2 * MIB + b'"}',
    "quotes": b'{"a":"' + b'\\"' * 2 * MIB + b'"}',
    "a shape": _v2(b"1", shape="[" + ",".join(["1"] * 2 * MIB) + "]"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_no_body_builds_more_than_it_pays_for(kind: str) -> None:
    body = HOSTILE[kind]
    assert _peak(body) < 6 * MIB + 4 * len(body)


@pytest.mark.parametrize("shape", ["[9223372036854775807,0]", "[0,9223372036854775807]"])
def test_shapes_that_no_array_can_have(shape: str) -> None:
    with pytest.raises(InvalidInput):
        rest_call(parse_rest(_v2(b"", shape=shape), None), "m", 64)


@pytest.mark.parametrize("sample", ["true", "null", '"1"', "[]", "{}", "[0.5]"])
@pytest.mark.parametrize("length", [2, 300_000])
def test_a_sample_that_is_no_number(sample: str, length: int) -> None:
    data = ",".join(["0"] * (length - 1)) + "," + sample
    with pytest.raises(InvalidInput):
        rest_call(parse_rest(_v2(data.encode(), shape=f"[{length}]"), None), "m", 64)


@pytest.mark.parametrize("num_rows", [1, 2])
@pytest.mark.parametrize("is_nested", [True, False])
@pytest.mark.parametrize("length", [3, 100_000])
def test_waveforms_in_json_flat_and_nested(num_rows: int, is_nested: bool, length: int) -> None:
    samples = np.random.default_rng(0).normal(size=(num_rows, length)).astype(np.float32)
    data = samples.tolist() if is_nested else samples.reshape(-1).tolist()
    text = json.dumps(data)[1:-1].encode()
    call = rest_call(parse_rest(_v2(text, shape=f"[{num_rows},{length}]"), None), "m", 64)
    for row, recording in zip(samples, call.recordings, strict=True):
        np.testing.assert_array_equal(recording.waveform, row)


def test_a_whole_number_may_be_written_with_a_point() -> None:
    """To JSON's schemas 16000.0 is an integer; Lua and some Go clients write it so."""
    body = _v2(b"0,0,0,0", shape="[1.0,4.0]").replace(b":16000}", b":16000.0}")
    [recording] = rest_call(parse_rest(body, None), "m", 64).recordings
    assert recording.sample_rate_hz == 16000
    with pytest.raises(InvalidInput, match="sample_rate"):
        rest_call(parse_rest(body.replace(b"16000.0", b"16000.5"), None), "m", 64)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 3000, 700_000])
def test_base64_with_line_breaks_and_escapes(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    wrapped = base64.encodebytes(data).decode()
    for text in (
        wrapped,
        wrapped.replace("\n", "\r\n"),
        base64.b64encode(data).decode(),
    ):
        for written in (json.dumps(text), json.dumps(text).replace("/", "\\/")):
            body = b'{"instances":[{"audio":{"b64":%b}}]}' % written.encode()
            call = v1_call(body, "application/json", {}, 4)
            assert bytes(call.recordings[0].data or b"") == data


@pytest.mark.parametrize("size", [30, 700_000])
def test_a_mark_of_the_byte_order_is_passed_over(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    text = json.dumps({"instances": [{"audio": {"b64": base64.b64encode(data).decode()}}]})
    for body in (text.encode("utf-8-sig"), memoryview(text.encode("utf-8-sig"))):
        call = v1_call(body, "application/json", {}, 4)  # type: ignore[arg-type]
        assert bytes(call.recordings[0].data or b"") == data


def _written(pairs: list[tuple[str, str]]) -> str:
    return "{" + ", ".join(f"{json.dumps(name)} : {value}" for name, value in pairs) + "}"


NAMES = ["a", "b", "a ", ":", "a,", '"', "é", "a\\", ""]
OBJECTS = st.recursive(
    st.sampled_from(["1", '": "', '","', '"\\\\"', '"a\\":"', "null", '"\\": "', "[]"]),
    lambda values: st.one_of(
        st.lists(values, max_size=3).map(lambda each: f"[{' , '.join(each)}]"),
        st.lists(st.tuples(st.sampled_from(NAMES), values), max_size=4).map(_written),
    ),
    max_leaves=12,
)


def _is_repeated(text: str) -> bool:
    """By the json module."""
    found = []

    def look(pairs: list[tuple[str, Any]]) -> None:
        found.append(len(dict(pairs)) < len(pairs))

    json.loads(text, object_pairs_hook=look)
    return any(found)


@settings(max_examples=60)
@given(value=OBJECTS)
def test_a_field_that_is_given_twice_is_refused(value: str) -> None:
    """And nothing else is: strings may look like names, and names like strings."""
    uncounted = (':" :', '," :', '\\" :', ' " :')  # ends of names
    text = f'{{"x": {value}}}'
    is_repeated = _is_repeated(text)
    try:
        load_json(text.encode())
    except InvalidInput:
        assert is_repeated
    else:
        assert not is_repeated or any(end in value for end in uncounted)


@pytest.mark.parametrize("pad", ["", PAD], ids=["small", "large"])
def test_the_field_that_is_given_twice_is_named(pad: str) -> None:
    text = '{"parameters": {"language": "en", "language": "fr"}' + pad + "}"
    with pytest.raises(InvalidInput, match="language: given twice") as caught:
        load_json(text.encode())
    assert caught.value.field == "language"


@given(st.text("AQgw+/=-_ \n\x00é", max_size=16))
@settings(max_examples=400)
def test_base64_is_what_binascii_reads_strictly(text: str) -> None:
    """A library reads it; CPython's own is the judge, without spaces and line breaks.

    It passes over padding that is too much, which is refused here.
    """
    bare = text.translate(dict.fromkeys(map(ord, "\r\n\t "))).encode()
    try:
        expected = binascii.a2b_base64(bare, strict_mode=True)
        assert len(bare) % 4 == 0
        assert len(expected) >= len(bare) // 4 * 3 - 2
    except (binascii.Error, AssertionError):
        with pytest.raises(InvalidInput, match="audio: not base64"):
            decode_base64(text, field="audio")
    else:
        assert bytes(decode_base64(text, field="audio")) == expected


@pytest.mark.parametrize(
    "text", ["A", "AB", "ABC", "AB=C", "====", "AA==AA==", "A?CD", "Ü", "=" * 8]
)
def test_what_is_no_base64(text: str) -> None:
    for given_text in (text, "AAAA" * 100_000 + text):
        with pytest.raises(InvalidInput):
            decode_base64(given_text, field="audio")
        raw = memoryview(given_text.encode())
        with pytest.raises(InvalidInput):
            decode_base64(LongText(raw), field="audio")
