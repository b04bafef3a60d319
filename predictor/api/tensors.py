"""A V2 tensor whose datatype, shape and data are checked when it is read; raw bytes stay raw."""

from __future__ import annotations

import binascii
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from predictor.errors import InvalidInput

Parameters = Mapping[str, bool | int | float | str]
MAX_NAME_CHARS = 60


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input: exactly one of `raw` (little-endian bytes) and `values` (JSON or contents)."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes | memoryview | None
    values: Sequence[Any] | None
    parameters: Parameters = field(default_factory=dict)

    def byte_strings(self, *, base64_text: bool) -> list[bytes | memoryview]:
        """Elements of a BYTES tensor of shape [n] or [n, 1].

        `base64_text` says that strings, which JSON alone can carry, are base64 of the bytes.
        """
        self.require("BYTES", "[n]", len(self.shape) == 1 or self.shape[1:] == (1,))
        if self.raw is not None:
            elements: list[bytes | memoryview] = _split_byte_strings(self.name, self.raw)
        else:
            elements = [self._element(value, base64_text) for value in _flat(self.values or ())]
        self._check_count(len(elements))
        return elements

    def texts(self) -> list[str]:
        """Elements of a BYTES tensor as UTF-8 strings."""
        try:
            return [bytes(e).decode() for e in self.byte_strings(base64_text=False)]
        except UnicodeDecodeError as error:
            raise InvalidInput(f"{self.name}: not UTF-8", field=self.name) from error

    def floats(self) -> NDArray[np.float32]:
        """A FP32 tensor of shape [samples] or [n, samples], as [n, samples]."""
        self.require("FP32", "[samples] or [n, samples]", len(self.shape) in (1, 2))
        if self.raw is not None:
            if len(self.raw) % 4:
                raise InvalidInput(
                    f"{self.name}: {len(self.raw)} bytes are no whole number of FP32 values",
                    field=self.name,
                )
            array = np.frombuffer(self.raw, dtype="<f4")
        else:
            array = self._numbers()
        self._check_count(array.size)
        return array.reshape(self.shape if len(self.shape) == 2 else (1, -1))

    def require(self, datatype: str, shape_text: str, shape_ok: bool) -> None:
        """Raises InvalidInput unless the tensor has this datatype and its shape is right."""
        if self.datatype != datatype:
            raise InvalidInput(
                f"{self.name}: datatype {self.datatype[:MAX_NAME_CHARS]}, must be {datatype}",
                field=self.name,
                value=self.datatype,
                limit=datatype,
            )
        if not shape_ok:
            raise InvalidInput(
                f"{self.name}: shape {list(self.shape)[:8]}, must be {shape_text}",
                field=self.name,
                value=list(self.shape),
                limit=shape_text,
            )

    def _element(self, value: object, base64_text: bool) -> bytes:
        if isinstance(value, bytes):
            return value
        if not isinstance(value, str):
            raise InvalidInput(f"{self.name}: data must hold strings", field=self.name)
        return decode_base64(value, field=self.name) if base64_text else value.encode()

    def _numbers(self) -> NDArray[np.float32]:
        try:
            array = np.asarray(self.values)
        except ValueError:  # ragged nesting
            array = np.asarray(None)
        if array.dtype.kind not in "iuf":
            raise InvalidInput(f"{self.name}: data must hold numbers", field=self.name)
        with np.errstate(over="ignore"):  # too large becomes infinite, which decoding refuses
            return array.astype(np.float32).reshape(-1)

    def _check_count(self, count: int) -> None:
        expected = math.prod(self.shape)
        if count != expected:
            raise InvalidInput(
                f"{self.name}: {count} elements of data, shape {list(self.shape)} has {expected}",
                field=self.name,
                value=count,
                limit=expected,
            )


def decode_base64(text: str, *, field: str) -> bytes:
    """Raises InvalidInput for what is not base64 (standard alphabet, padded)."""
    try:
        return binascii.a2b_base64(text, strict_mode=True)  # base64's own check is ten times slower
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"{field}: not base64", field=field) from error


def load_json(body: bytes | memoryview, *, what: str = "body") -> dict[str, Any]:
    """A JSON object. Raises InvalidInput naming the place, never quoting the body."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(
            f"{what}: not JSON (line {error.lineno}, column {error.colno})", field=what
        ) from error
    if not isinstance(value, dict):
        raise InvalidInput(f"{what}: must be a JSON object", field=what)
    return value


def refuse_unknown(content: Mapping[str, Any], known: Sequence[str], place: str) -> None:
    """Raises InvalidInput naming the first key that is not known; nothing is ever ignored."""
    for key in content:
        if key not in known:
            shown = key[:MAX_NAME_CHARS]
            raise InvalidInput(
                f"{place}: unknown field {shown!r}"
                + (f", known are {', '.join(known)}" if known else ""),
                field=shown,
                limit=list(known),
            )


def _split_byte_strings(name: str, raw: bytes | memoryview) -> list[bytes | memoryview]:
    """Elements of a raw BYTES tensor: four bytes of length, then the bytes, again and again."""
    view, elements, offset = memoryview(raw), [], 0
    while offset < len(view):
        if offset + 4 > len(view):
            raise InvalidInput(f"{name}: raw data ends inside a length", field=name)
        (size,) = struct.unpack_from("<I", view, offset)
        offset += 4
        if offset + size > len(view):
            raise InvalidInput(
                f"{name}: an element of {size} bytes is longer than the raw data", field=name
            )
        elements.append(view[offset : offset + size])
        offset += size
    return list(elements)


def _flat(values: Sequence[Any]) -> list[Any]:
    """JSON data may be nested like the shape, which has at most two dimensions here."""
    flat: list[Any] = []
    for value in values:
        if isinstance(value, list):
            flat.extend(value)
        else:
            flat.append(value)
    return flat
