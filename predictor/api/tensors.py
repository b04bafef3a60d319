"""A V2 tensor whose datatype, shape and data are checked when it is read; raw bytes stay raw."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictor.api.json_body import LongText, decode_base64, numbers
from predictor.errors import InvalidInput

Parameters = Mapping[str, bool | int | float | str]
MAX_NAME_CHARS = 60
MAX_DIMENSIONS = 8
MAX_DRAFT_CHARS = 8192


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input: exactly one of `raw` (little-endian bytes) and `values` (JSON or contents)."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes | memoryview | None
    values: Sequence[Any] | NDArray[np.float32] | None
    parameters: Parameters = field(default_factory=dict)

    def num_strings(self) -> int:
        """Elements of a BYTES tensor of shape [n] or [n, 1], as its shape says."""
        self.require("BYTES", "[n]", len(self.shape) == 1 or self.shape[1:] == (1,))
        return self.shape[0]

    def num_waveforms(self) -> int:
        """Rows of a FP32 tensor of shape [samples] or [n, samples], as its shape says."""
        self.require("FP32", "[samples] or [n, samples]", len(self.shape) in (1, 2))
        return self.shape[0] if len(self.shape) == 2 else 1

    def byte_strings(self, *, base64_text: bool) -> list[bytes | memoryview]:
        """The elements; the caller has limited `num_strings` before.

        `base64_text` says that strings, which JSON alone can carry, are base64 of the bytes.
        """
        count = self.num_strings()
        if self.raw is not None:
            return _split_byte_strings(self.name, self.raw, count)
        values = self.values or ()
        self._check_count(len(values), count)
        return [self._element(value, base64_text) for value in values]

    def texts(self) -> list[str]:
        """Elements of a BYTES tensor as UTF-8 strings."""
        try:
            return [bytes(e).decode() for e in self.byte_strings(base64_text=False)]
        except UnicodeDecodeError as error:
            raise InvalidInput(f"{self.name}: not UTF-8", field=self.name) from error

    def floats(self) -> NDArray[np.float32]:
        """A FP32 tensor as [n, samples]; the caller has limited `num_waveforms` before."""
        num_rows = self.num_waveforms()
        if self.raw is not None:
            if len(self.raw) % 4:
                raise InvalidInput(
                    f"{self.name}: {len(self.raw)} bytes are no whole number of FP32 values",
                    field=self.name,
                )
            array = np.frombuffer(self.raw, dtype="<f4")
        else:
            array = self._numbers(num_rows)
        self._check_count(array.size, math.prod(self.shape))
        return array.reshape(num_rows, -1 if array.size else 0)

    def require(self, datatype: str, shape_text: str, shape_ok: bool) -> None:
        """Raises InvalidInput unless the tensor has this datatype and its shape is right."""
        if self.datatype != datatype:
            raise InvalidInput(
                f"{self.name}: datatype {self.datatype[:MAX_NAME_CHARS]!r}, must be {datatype}",
                field=self.name,
                value=self.datatype[:MAX_NAME_CHARS],
                limit=datatype,
            )
        if not shape_ok:
            raise InvalidInput(
                f"{self.name}: shape {list(self.shape)[:8]}, must be {shape_text}",
                field=self.name,
                value=list(self.shape)[:8],
                limit=shape_text,
            )

    def _element(self, value: object, base64_text: bool) -> bytes | memoryview:
        if isinstance(value, list) and len(value) == 1 and len(self.shape) == 2:
            value = value[0]
        if isinstance(value, bytes | memoryview):
            return value
        if not isinstance(value, str | LongText):
            raise InvalidInput(f"{self.name}: data must hold strings", field=self.name)
        if base64_text:
            return decode_base64(value, field=self.name)
        text = value.text(field=self.name) if isinstance(value, LongText) else value
        return text.encode()

    def _numbers(self, num_rows: int) -> NDArray[np.float32]:
        """JSON numbers, flat or nested like the shape; no array is made of anything else."""
        values = self.values
        if not isinstance(values, list):  # an array already, of a long list or of gRPC contents
            return np.asarray(() if values is None else values, dtype=np.float32)
        if not values or not isinstance(values[0], list | np.ndarray):
            return numbers(values, field=self.name)
        if len(values) != num_rows:
            raise InvalidInput(
                f"{self.name}: {len(values)} rows of data for shape {list(self.shape)}",
                field=self.name,
                value=len(values),
                limit=num_rows,
            )
        return np.concatenate([self._row(row) for row in values])

    def _row(self, row: object) -> NDArray[np.float32]:
        if isinstance(row, np.ndarray):
            return row
        if not isinstance(row, list):
            raise InvalidInput(f"{self.name}: data must hold numbers", field=self.name)
        return numbers(row, field=self.name)

    def _check_count(self, count: int, expected: int) -> None:
        if count != expected:
            raise InvalidInput(
                f"{self.name}: {count} elements of data, shape {list(self.shape)} has {expected}",
                field=self.name,
                value=count,
                limit=expected,
            )


def checked_draft(draft: str) -> str:
    """A draft of an answer. Raises InvalidInput above MAX_DRAFT_CHARS: no piece says more."""
    if len(draft) > MAX_DRAFT_CHARS:
        raise InvalidInput(
            f"draft: {len(draft)} characters, the limit is {MAX_DRAFT_CHARS}",
            field="draft",
            value=len(draft),
            limit=MAX_DRAFT_CHARS,
        )
    return draft


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


def _split_byte_strings(name: str, raw: bytes | memoryview, count: int) -> list[bytes | memoryview]:
    """`count` elements of a raw BYTES tensor: four bytes of length, then the bytes, and so on."""
    view, offset = memoryview(raw), 0
    elements: list[bytes | memoryview] = []
    while offset < len(view) and len(elements) < count:
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
    if len(elements) != count or offset != len(view):
        found = len(elements) if offset == len(view) else f"more than {count}"
        raise InvalidInput(
            f"{name}: {found} elements of data, the shape has {count}", field=name, limit=count
        )
    return elements
