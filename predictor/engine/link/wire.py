"""What the server and the engine's process say to each other, as bytes on a socket.

A frame is its length, its kind, and its payload: JSON, except for the tokens of a step, which are
flat arrays, because that frame comes hundreds of times a second. Nothing is pickled. The samples of
a request travel beside its frame as an open file (memfd).
"""

from __future__ import annotations

import json
import struct
from array import array
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, TypeAlias, get_args

from predictor import errors
from predictor.engine.options import EngineOptions, StepStats
from predictor.engine.sequence import Limits
from predictor.errors import AsrError, InternalError, InvalidInput, RetryableError
from predictor.types import EngineFinish, TokenChunk

_HEADER: Final = struct.Struct("=IB")
_FINISHES: Final = (None, *get_args(EngineFinish))
_NUMBERS: Final = "I"  # array code of unsigned numbers below 2**32
_LOGPROBS: Final = "d"
_MAX_PULSE_S: Final = 1.0

assert array(_NUMBERS).itemsize == 4


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What the engine's process must know to load; the first frame it gets."""

    model_path: Path
    device: str
    dtype: str
    options: EngineOptions
    num_threads: int | None = None  # of torch on the CPU; None leaves it to torch
    log_format: str = "json"
    log_level: str = "info"


@dataclass(frozen=True, slots=True)
class Loaded:
    """The engine is ready to start; what the server must know of it."""

    limits: Limits
    num_slots: int
    device: str
    dtype: str


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The engine cannot be loaded; the process ends."""

    error: str  # name of the exception's class
    message: str


@dataclass(frozen=True, slots=True)
class Submit:
    """A request; its samples (float32) come as an open file with this frame."""

    number: int  # of the request, by which answers name it
    request_id: str
    num_samples: int
    tokens_before: tuple[int, ...]
    tokens_after: tuple[int, ...]
    max_new_tokens: int
    is_streamed: bool = True


@dataclass(frozen=True, slots=True)
class Abort:
    """Its stream was left."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Chunks:
    """What one step gave to whom."""

    items: tuple[tuple[int, TokenChunk], ...]  # (number of the request, its tokens)


@dataclass(frozen=True, slots=True)
class Failed:
    """A request has ended with an error."""

    number: int
    error: AsrError


@dataclass(frozen=True, slots=True)
class Stepped:
    """One step as the observer sees it."""

    stats: StepStats


@dataclass(frozen=True, slots=True)
class Pulse:
    """Sent every now and then: whether the engine's loop turns."""

    is_alive: bool


def pulse_s(options: EngineOptions) -> float:
    """Seconds between two pulses: often enough to notice a step that hangs."""
    return min(_MAX_PULSE_S, options.stall_timeout_s / 4)


Message: TypeAlias = (
    EngineSpec | Loaded | LoadFailed | Submit | Abort | Chunks | Failed | Stepped | Pulse
)


def encode(message: Message) -> bytes:
    """`message` as a frame."""
    kind = _KINDS.index(type(message))
    if isinstance(message, Chunks):
        payload = _pack_chunks(message)
    else:
        payload = json.dumps(_plain(message), default=str).encode()
    return _HEADER.pack(len(payload), kind) + payload


class Frames:
    """Bytes in, in whatever pieces they arrive; messages out."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """The messages that `data` completes."""
        self._bytes += data
        messages: list[Message] = []
        position = 0
        while position + _HEADER.size <= len(self._bytes):
            size, kind = _HEADER.unpack_from(self._bytes, position)
            end = position + _HEADER.size + size
            if end > len(self._bytes):
                break
            payload = bytes(self._bytes[position + _HEADER.size : end])
            position = end
            messages.append(_READERS[_KINDS[kind]](payload))
        del self._bytes[:position]
        return messages


def _plain(message: Message) -> dict[str, Any]:
    if isinstance(message, EngineSpec):
        return {**asdict(message), "model_path": str(message.model_path)}
    if isinstance(message, Loaded):
        limits = {**asdict(message.limits), "eos_token_ids": sorted(message.limits.eos_token_ids)}
        return {**_shallow(message), "limits": limits}
    if isinstance(message, Failed):
        return {"number": message.number, **_plain_error(message.error)}
    return _shallow(message.stats if isinstance(message, Stepped) else message)


def _shallow(message: Any) -> dict[str, Any]:
    return {field.name: getattr(message, field.name) for field in fields(message)}


def _plain_error(error: AsrError) -> dict[str, Any]:
    names = ("retry_after_s", "field", "value", "limit", "request_id")
    details = {name: getattr(error, name) for name in names if hasattr(error, name)}
    message = error.bare_message if isinstance(error, InvalidInput) else error.message
    return {"error": type(error).__name__, "message": message, **details}


def _error(values: dict[str, Any]) -> AsrError:
    """The error again, of the same class."""
    kind, message = getattr(errors, values.pop("error")), values.pop("message")
    made: AsrError
    if issubclass(kind, InternalError):
        made = kind(values["request_id"])
    elif issubclass(kind, InvalidInput | RetryableError):
        made = kind(message, **values)
    else:
        made = kind(message)
    return made


def _read_spec(values: dict[str, Any]) -> EngineSpec:
    options = EngineOptions(**values.pop("options"))
    return EngineSpec(Path(values.pop("model_path")), options=options, **values)


def _read_loaded(values: dict[str, Any]) -> Loaded:
    limits = values.pop("limits")
    eos_token_ids = frozenset(limits.pop("eos_token_ids"))
    return Loaded(limits=Limits(**limits, eos_token_ids=eos_token_ids), **values)


def _read_submit(values: dict[str, Any]) -> Submit:
    before, after = tuple(values.pop("tokens_before")), tuple(values.pop("tokens_after"))
    return Submit(tokens_before=before, tokens_after=after, **values)


def _read_stepped(values: dict[str, Any]) -> Stepped:
    queue_s, device_s = tuple(values["queue_s"]), tuple(map(tuple, values["device_s"]))
    return Stepped(StepStats(**values | {"queue_s": queue_s, "device_s": device_s}))


def _from_json(read: Callable[[dict[str, Any]], Message]) -> Callable[[bytes], Message]:
    return lambda payload: read(json.loads(payload))


def _pack_chunks(message: Chunks) -> bytes:
    """Five numbers for each request, then all tokens, then all log-probabilities."""
    numbers = array(_NUMBERS, [len(message.items)])
    logprobs = array(_LOGPROBS)
    for number, chunk in message.items:
        finish = _FINISHES.index(chunk.finish)
        counts = (chunk.num_prompt_tokens, chunk.num_audio_tokens)
        numbers.extend((number, len(chunk.token_ids), finish, *counts))
    for _, chunk in message.items:
        numbers.extend(chunk.token_ids)
        logprobs.extend(chunk.logprobs)
    return numbers.tobytes() + logprobs.tobytes()


def _read_chunks(payload: bytes) -> Chunks:
    """The twin of `_pack_chunks`; there are as many log-probabilities as tokens."""
    (num_items,) = struct.unpack_from("=I", payload)
    first_token = 1 + 5 * num_items
    num_tokens = (len(payload) - 4 * first_token) // 12
    end = 4 * (first_token + num_tokens)
    numbers = array(_NUMBERS, payload[:end]).tolist()
    logprobs = array(_LOGPROBS, payload[end:]).tolist()
    items, done = [], 0
    for i in range(1, first_token, 5):
        number, size, finish, num_prompt, num_audio = numbers[i : i + 5]
        tokens = tuple(numbers[first_token + done : first_token + done + size])
        scores = tuple(logprobs[done : done + size])
        items.append((number, TokenChunk(tokens, scores, _FINISHES[finish], num_prompt, num_audio)))
        done += size
    return Chunks(tuple(items))


_READERS: Final[dict[type, Callable[[bytes], Message]]] = {
    EngineSpec: _from_json(_read_spec),
    Loaded: _from_json(_read_loaded),
    LoadFailed: _from_json(lambda values: LoadFailed(**values)),
    Submit: _from_json(_read_submit),
    Abort: _from_json(lambda values: Abort(**values)),
    Chunks: _read_chunks,
    Failed: _from_json(lambda values: Failed(values.pop("number"), _error(values))),
    Stepped: _from_json(_read_stepped),
    Pulse: _from_json(lambda values: Pulse(**values)),
}
_KINDS: Final = tuple(_READERS)  # a frame's kind is the place in this list
