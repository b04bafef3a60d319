"""Uncompressed samples: what layouts exist, how a content type names them, bytes to float32.

Only numpy: a plain WAV or raw PCM body needs no codec and so no worker process.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from functools import lru_cache
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from predictor.audio.bounds import check_channels, check_sample_rate, too_long
from predictor.audio.limits import DURATION_SLACK_S, AudioLimits
from predictor.audio.sniff import Container
from predictor.errors import AudioError, InvalidInput
from predictor.types import SAMPLE_RATE_HZ

Encoding = Literal[
    "u8", "s16le", "s16be", "s24le", "s24be", "s32le", "s32be", "f32le", "f64le", "ulaw", "alaw"
]

_RAW_TYPES: Final[dict[str, Encoding]] = {
    "audio/pcm": "s16le",
    "audio/x-pcm": "s16le",
    "audio/raw": "s16le",
    "audio/x-raw": "s16le",
    "audio/l16": "s16le",
    "audio/l24": "s24le",
    "audio/basic": "ulaw",
    "audio/pcmu": "ulaw",
    "audio/pcma": "alaw",
}
_TELEPHONY: Final = ("audio/basic", "audio/pcmu", "audio/pcma")  # 8 kHz, one channel
_CODED: Final[dict[str, Container]] = {"audio/g722": "g722", "audio/gsm": "gsm"}
_FIXED: Final = ("audio/l16", "audio/l24", *_TELEPHONY)  # the type names the encoding
_ONE_BYTE: Final = ("u8", "ulaw", "alaw")
_PARAMETERS: Final = ("rate", "channels", "encoding", "endianness")
_BLOCK_VALUES: Final = 1 << 18  # converted at once
_PART_VALUES: Final = 1 << 21


@dataclass(frozen=True, slots=True)
class PcmLayout:
    """How raw bytes are to be read; channels are interleaved."""

    sample_rate_hz: int
    num_channels: int
    encoding: Encoding

    @property
    def bytes_per_value(self) -> int:
        return 1 if self.encoding in _ONE_BYTE else int(self.encoding[1:3]) // 8


def raw_layout(content_type: str | None, field: str) -> PcmLayout | None:
    """The layout that a raw PCM media type names, or None for any other type.

    `audio/pcm` (also `audio/raw`), `audio/L16` and `audio/L24` with the parameters `rate` (16000),
    `channels` (1), `encoding` (s16le; only for audio/pcm) and `endianness` (little-endian, as
    nearly all senders mean it; big-endian for L16/L24 in network order, RFC 2586). Telephony:
    `audio/basic` and `audio/PCMU` (mu-law), `audio/PCMA` (A-law), at 8 kHz if they give no rate.
    Raises InvalidInput for unknown or bad parameters.
    """
    if content_type is None or content_type.partition(";")[0].strip().lower() not in _RAW_TYPES:
        return None
    message = Message()
    message["content-type"] = content_type
    media_type, *pairs = message.get_params(failobj=[])
    parameters = {name.lower(): value.strip() for name, value in pairs}
    for name in parameters:
        if name not in _PARAMETERS:
            raise _bad_parameter(field, name, parameters[name], ", ".join(_PARAMETERS))
    default = _RAW_TYPES[media_type[0].lower()]
    usual_hz = 8_000 if media_type[0].lower() in _TELEPHONY else SAMPLE_RATE_HZ
    return PcmLayout(
        sample_rate_hz=_positive(field, "rate", parameters.get("rate"), usual_hz),
        num_channels=_positive(field, "channels", parameters.get("channels"), 1),
        encoding=_encoding(field, media_type[0].lower(), default, parameters),
    )


def raw_container(content_type: str | None) -> Container | None:
    """The codec that a media type of bare frames names (`audio/G722`, `audio/GSM`), or None."""
    return _CODED.get((content_type or "").partition(";")[0].strip().lower())


def _encoding(
    field: str, media_type: str, default: Encoding, parameters: dict[str, str]
) -> Encoding:
    choices = get_args(Encoding)
    name = parameters.get("encoding", default).lower()
    if name not in choices or (media_type in _FIXED and name != default):
        raise _bad_parameter(field, "encoding", name, ", ".join(choices))
    endianness = parameters.get("endianness", "").lower()
    if endianness not in ("", "little-endian", "big-endian"):
        raise _bad_parameter(field, "endianness", endianness, "little-endian, big-endian")
    if endianness and name not in _ONE_BYTE:
        name = name[:-2] + ("be" if endianness == "big-endian" else "le")
        if name not in choices:
            raise _bad_parameter(field, "endianness", endianness, ", ".join(choices))
    found: Encoding = next(choice for choice in choices if choice == name)
    return found


def _positive(field: str, name: str, text: str | None, default: int) -> int:
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) == 0:
        raise _bad_parameter(field, name, text, "a positive whole number")
    return int(text)


def _bad_parameter(field: str, name: str, value: str, limit: str) -> InvalidInput:
    return InvalidInput(
        f"{field}: content type parameter {name}={value!r} is not valid, expected: {limit}",
        field=f"{field}.{name}",
        value=value,
        limit=limit,
    )


def check_pcm(num_bytes: int, layout: PcmLayout, limits: AudioLimits, field: str) -> float:
    """Seconds that `num_bytes` of this layout last.

    Raises InvalidInput, AudioTooLong, and AudioError for a length that ends within a sample.
    """
    check_sample_rate(layout.sample_rate_hz, limits, field)
    check_channels(layout.num_channels, limits, field)
    bytes_per_frame = layout.bytes_per_value * layout.num_channels
    num_samples, rest = divmod(num_bytes, bytes_per_frame)
    if rest:
        raise AudioError(
            f"{field}: {num_bytes} bytes are no whole number of {bytes_per_frame}-byte samples "
            f"({layout.encoding}, {layout.num_channels} channels)",
            field=field,
            value=num_bytes,
            limit=f"a multiple of {bytes_per_frame}",
        )
    if num_samples > (limits.max_duration_s + DURATION_SLACK_S) * layout.sample_rate_hz:
        raise too_long(limits, field, num_samples / layout.sample_rate_hz)
    return num_samples / layout.sample_rate_hz


def decode_pcm(data: memoryview, layout: PcmLayout) -> Iterator[NDArray[np.float32]]:
    """Interleaved bytes, a whole number of samples, to blocks [n, channels] of float32."""
    bytes_per_frame = layout.bytes_per_value * layout.num_channels
    step = max(1, _BLOCK_VALUES // layout.num_channels) * bytes_per_frame
    for start in range(0, len(data), step):
        yield to_float(data[start : start + step], layout.encoding).reshape(-1, layout.num_channels)


def whole_parts(data: memoryview, layout: PcmLayout) -> Iterator[memoryview]:
    """`data` in parts of a few MB, each a whole number of samples."""
    bytes_per_frame = layout.bytes_per_value * layout.num_channels
    step = max(1, _PART_VALUES // layout.num_channels) * bytes_per_frame
    for start in range(0, len(data), step):
        yield data[start : start + step]


def to_float(raw: memoryview, encoding: Encoding) -> NDArray[np.float32]:
    """Bytes to float32 [num_values]; integers are scaled by their full range to [-1, 1)."""
    if encoding == "u8":
        return (np.frombuffer(raw, np.uint8).astype(np.float32) - 128.0) / 128.0
    if encoding in ("ulaw", "alaw"):
        table = _ulaw() if encoding == "ulaw" else _alaw()
        return table[np.frombuffer(raw, np.uint8)]
    order = ">" if encoding.endswith("be") else "<"
    bits = int(encoding[1:3])
    if encoding[0] == "f":
        with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, refused later
            return np.frombuffer(raw, f"{order}f{bits // 8}").astype(np.float32)
    if bits == 24:
        return _from_24_bit(raw, order)
    values = np.frombuffer(raw, f"{order}i{bits // 8}").astype(np.float32)
    values /= float(1 << (bits - 1))
    return values


def _from_24_bit(raw: memoryview, order: str) -> NDArray[np.float32]:
    """Each three bytes become the upper three of an int32."""
    triples = np.frombuffer(raw, np.uint8).reshape(-1, 3)
    wide = np.zeros((len(triples), 4), dtype=np.uint8)
    if order == "<":
        wide[:, 1:] = triples
    else:
        wide[:, :3] = triples
    values: NDArray[np.float32] = wide.view(f"{order}i4")[:, 0].astype(np.float32)
    values /= float(1 << 31)
    return values


@lru_cache(maxsize=1)
def _ulaw() -> NDArray[np.float32]:
    """[256] values of G.711's mu-law within [-1, 1)."""
    code = ~np.arange(256, dtype=np.uint8)
    exponent, mantissa = (code >> 4 & 7).astype(np.int32), (code & 15).astype(np.int32)
    size = ((mantissa * 8 + 132) << exponent) - 132
    values: NDArray[np.float32] = np.where(code & 0x80, -size, size).astype(np.float32)
    values /= 32_768
    return values


@lru_cache(maxsize=1)
def _alaw() -> NDArray[np.float32]:
    """[256] values of G.711's A-law within [-1, 1)."""
    code = np.arange(256, dtype=np.uint8) ^ np.uint8(0x55)
    exponent, mantissa = (code >> 4 & 7).astype(np.int32), (code & 15).astype(np.int32)
    linear = mantissa * 16 + 8
    size = np.where(exponent > 0, (linear + 256) << np.maximum(exponent - 1, 0), linear)
    values: NDArray[np.float32] = np.where(code & 0x80, size, -size).astype(np.float32)
    values /= 32_768
    return values
