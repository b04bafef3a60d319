"""JSON bodies of any size, without a byte of memory that the body did not pay for.

orjson holds the interpreter while it works, and makes up to thirty bytes of Python objects from one
byte of body. So a large body is skimmed first, in a thread and in short steps: long strings stay
where they are, long lists of numbers become arrays, and orjson reads the small rest.
"""

from __future__ import annotations

import binascii
import codecs
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson
import pybase64
from numpy.typing import NDArray

from predictor.api.json_names import refuse_repeated
from predictor.api.media import refuse_gzip
from predictor.errors import InvalidInput

SMALL_BODY_BYTES: Final = 256 * 1024  # orjson reads this much in a few milliseconds
MAX_CONTAINERS: Final = 65_536  # lists and objects of a large body
MAX_QUOTES: Final = 131_072  # strings, and quotes in strings, of a large body
MAX_REST_BYTES: Final = 2 * 1024 * 1024  # of a large body without long strings and lists
_LONG_BYTES: Final = 4096  # a longer string is not copied
_PIECE_BYTES: Final = 128 * 1024  # worked on at once while the interpreter is held
_MAX_TEXT_BYTES: Final = 256 * 1024  # of a text that is not base64
_BASE64_SPACES: Final = (b"\r", b"\n", b"\t", b" ")
_SPACES: Final = re.compile(rb"[ \t\r\n]+")
_BRACKET: Final = re.compile(rb"[\[\]{}]")

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class LongText:
    """A string of the body as it stands there, escapes included, without its quotes."""

    raw: memoryview

    def text(self, *, field: str) -> str:
        """The string itself. Raises InvalidInput above 256 kB: nothing but audio is that long."""
        if len(self.raw) > _MAX_TEXT_BYTES:
            raise InvalidInput(
                f"{field}: a text of {len(self.raw)} bytes, the limit is {_MAX_TEXT_BYTES}",
                field=field,
                value=len(self.raw),
                limit=_MAX_TEXT_BYTES,
            )
        try:
            text: str = orjson.loads(b'"%b"' % bytes(self.raw))
        except orjson.JSONDecodeError as error:
            raise InvalidInput(f"{field}: not a JSON string", field=field) from error
        return text

    def pieces(self) -> Iterator[bytes]:
        """The string as bytes, a piece at a time. Raises ValueError for bad escapes."""
        start = 0
        while start < len(self.raw):
            piece = bytes(self.raw[start : start + _PIECE_BYTES])
            cut = piece.rfind(b"\\", len(piece) - 6)
            if cut > 0 and start + len(piece) < len(self.raw):
                piece = piece[:cut]  # not in the middle of an escape
            start += len(piece)
            yield orjson.loads(b'"%b"' % piece).encode() if b"\\" in piece else piece


def load_json(body: Buffer, *, what: str = "body") -> dict[str, Any]:
    """A JSON object; of a large one long strings are LongText, long lists of numbers FP32 arrays.

    Raises InvalidInput naming the place, never quoting the body.
    """
    refuse_gzip(body, what)
    if body[:3] == codecs.BOM_UTF8:  # as .NET writes it; a reader may pass over it (RFC 8259, 8.1)
        body = body[3:]
    is_small = len(body) <= SMALL_BODY_BYTES
    value = _loads(body, what) if is_small else _Skimmer(body, what).read()
    if not isinstance(value, dict):
        raise InvalidInput(f"{what}: must be a JSON object", field=what)
    return value


def decode_base64(text: str | LongText, *, field: str) -> memoryview:
    """The bytes of base64: standard alphabet, padded, line breaks and spaces allowed.

    Raises InvalidInput naming the field.
    """
    pieces = text.pieces() if isinstance(text, LongText) else iter([text.encode()])
    try:
        return memoryview(_decode_pieces(pieces))
    except ValueError as error:  # binascii.Error and orjson.JSONDecodeError are
        raise InvalidInput(f"{field}: not base64", field=field) from error


def numbers(values: list[Any], *, field: str) -> NDArray[np.float32]:
    """[len(values)] of int and float; types are looked at before anything is made of them.

    Raises InvalidInput naming the field.
    """
    if not set(map(type, values)) <= {int, float}:
        raise InvalidInput(f"{field}: data must hold numbers", field=field)
    with np.errstate(over="ignore"):  # too large becomes infinite, which decoding refuses
        return np.array(values, dtype=np.float64).astype(np.float32)


def _decode_pieces(pieces: Iterator[bytes]) -> bytearray:
    decoded, rest = bytearray(), b""
    is_padded = False
    for piece in pieces:
        if any(space in piece for space in _BASE64_SPACES):
            piece = piece.translate(None, b"".join(_BASE64_SPACES))
        clean = rest + piece
        whole = len(clean) & ~3
        clean, rest = clean[:whole], clean[whole:]
        if is_padded and clean:
            raise binascii.Error("data after the padding")
        part = pybase64.b64decode(clean, validate=True)
        if len(part) < whole // 4 * 3 - 2:
            raise binascii.Error("padding without data")
        decoded += part
        is_padded = clean.endswith(b"=")
    if rest:
        raise binascii.Error("not a whole number of groups of four")
    return decoded


def _loads(body: Buffer, what: str) -> Any:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        place = f" (line {error.lineno}, column {error.colno})"
        raise InvalidInput(f"{what}: not JSON{place}", field=what) from error
    refuse_repeated(body, value)
    return value


class _Skimmer:
    """One large body; `_rest` grows to what orjson reads, with a name where a part was taken out.

    The names hold a secret, so that no string of the body can pass for one.
    """

    def __init__(self, body: Buffer, what: str) -> None:
        self._body = body if isinstance(body, bytes | bytearray) else bytes(body)
        self._view = memoryview(self._body)
        self._what = what
        self._secret = secrets.token_hex(16)
        self._parts: dict[str, LongText | NDArray[np.float32]] = {}
        self._rest = bytearray()
        self._num_containers = 0
        self._num_quotes = 0

    def read(self) -> Any:
        position = 0
        while (quote := self._body.find(b'"', position)) >= 0:
            self._skim_gap(position, quote)
            position = self._skim_string(quote)
        self._skim_gap(position, len(self._body))
        try:
            value = orjson.loads(self._rest)
        except orjson.JSONDecodeError as error:
            raise self._not_json() from error
        refuse_repeated(self._rest, value)
        self._put_back(value)
        return value

    def _not_json(self, why: str = "") -> InvalidInput:
        return InvalidInput(f"{self._what}: not JSON{why}", field=self._what)

    def _keep(self, part: bytes | bytearray) -> None:
        self._rest += part
        if len(self._rest) > MAX_REST_BYTES:
            raise InvalidInput(
                f"{self._what}: more than {MAX_REST_BYTES} bytes besides long strings and lists "
                "of numbers",
                field=self._what,
                limit=MAX_REST_BYTES,
            )

    def _take_out(self, part: LongText | NDArray[np.float32]) -> None:
        name = f"{self._secret}{len(self._parts)}"
        self._parts[name] = part
        self._keep(b'"%b"' % name.encode())

    def _skim_string(self, quote: int) -> int:
        """The string that opens at `quote`; returns the position behind it."""
        end = self._body.find(b'"', quote + 1)
        self._count_quote()
        while end >= 0 and self._num_backslashes(end) % 2:
            self._count_quote()
            end = self._body.find(b'"', end + 1)
        if end < 0:
            raise self._not_json(": a string does not end")
        if end - quote <= _LONG_BYTES:
            self._keep(self._body[quote : end + 1])
        elif self._body[end + 1 : end + 64].lstrip().startswith(b":"):
            raise InvalidInput(
                f"{self._what}: a field's name has {end - quote - 1} bytes, the limit is "
                f"{_LONG_BYTES}",
                field=self._what,
                limit=_LONG_BYTES,
            )
        else:
            self._take_out(LongText(self._view[quote + 1 : end]))
        return end + 1

    def _count_quote(self) -> None:
        self._num_quotes += 1
        if self._num_quotes > MAX_QUOTES:
            raise InvalidInput(
                f"{self._what}: more than {MAX_QUOTES} strings, or quotes in strings",
                field=self._what,
                limit=MAX_QUOTES,
            )

    def _num_backslashes(self, end: int) -> int:
        """How many stand right before `end`."""
        count = 0
        while chunk := self._body[max(0, end - count - _LONG_BYTES) : end - count]:
            run = len(chunk) - len(chunk.rstrip(b"\\"))
            count += run
            if run < len(chunk):
                break
        return count

    def _skim_gap(self, start: int, end: int) -> None:
        """What stands between two strings: brackets, and runs of numbers between them."""
        run_start = start
        for place in self._brackets(start, end):
            self._skim_run(run_start, place)
            if self._body[place] in b"[{":
                self._num_containers += 1
                if self._num_containers > MAX_CONTAINERS:
                    raise InvalidInput(
                        f"{self._what}: more than {MAX_CONTAINERS} lists and objects",
                        field=self._what,
                        limit=MAX_CONTAINERS,
                    )
            self._keep(self._body[place : place + 1])
            run_start = place + 1
        self._skim_run(run_start, end)

    def _brackets(self, start: int, end: int) -> Iterator[int]:
        for step in range(start, end, _PIECE_BYTES):
            for match in _BRACKET.finditer(self._body, step, min(step + _PIECE_BYTES, end)):
                yield match.start()

    def _skim_run(self, start: int, end: int) -> None:
        if end - start <= _LONG_BYTES:
            self._keep(self._body[start:end])
        elif self._body[start - 1 : start] == b"[" and self._body[end : end + 1] == b"]":
            self._take_out(self._numbers(start, end))
        else:
            self._keep(self._squeezed(start, end))

    def _squeezed(self, start: int, end: int) -> bytearray:
        """Space that only makes a body pretty, made short."""
        squeezed = bytearray()
        for step in range(start, end, _PIECE_BYTES):
            squeezed += _SPACES.sub(b" ", self._body[step : min(step + _PIECE_BYTES, end)])
            if len(squeezed) > _LONG_BYTES:
                raise InvalidInput(
                    f"{self._what}: a long list must hold numbers and nothing else",
                    field=self._what,
                )
        return squeezed

    def _numbers(self, start: int, end: int) -> NDArray[np.float32]:
        """The numbers of a list, without its brackets."""
        pieces = []
        while True:
            stop = min(start + _PIECE_BYTES, end)
            if stop < end:
                stop = self._body.rfind(b",", start, stop)
            piece = self._body[start:stop] if stop >= 0 else b""
            if not piece.strip():
                raise self._not_json(": a list of numbers has a gap")
            pieces.append(numbers(_loads(b"[%b]" % bytes(piece), self._what), field=self._what))
            if stop == end:
                return np.concatenate(pieces)
            start = stop + 1

    def _put_back(self, root: Any) -> None:
        """Parts for their names, without recursion: bodies may nest deeper than Python calls."""
        todo = [root]
        while todo:
            container = todo.pop()
            if isinstance(container, list):
                pairs: Any = enumerate(container)
            elif isinstance(container, dict):
                pairs = list(container.items())
            else:
                continue
            for key, value in pairs:
                part = self._part(value)
                if part is not None:
                    container[key] = part
                elif isinstance(value, list | dict):
                    todo.append(value)

    def _part(self, value: Any) -> LongText | NDArray[np.float32] | None:
        if isinstance(value, str):
            return self._parts.get(value)
        if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
            part = self._parts.get(value[0])
            return part if isinstance(part, np.ndarray) else None
        return None
