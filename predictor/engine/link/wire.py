"""What a server and an engine's process say to each other, as bytes on a socket.

A frame is its length, its kind, and its payload: JSON, except for the tokens of a step, which are
flat arrays, because that frame comes hundreds of times a second. Nothing is pickled. The samples of
a request travel beside its frame as an open file (memfd), or, if they are few, behind its JSON:
steps of live sessions come a thousand times a second.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, TypeAlias, get_args

import numpy as np
import orjson

from predictor import errors
from predictor.engine.options import EngineOptions, EngineStats, StepStats
from predictor.engine.sequence import Limits
from predictor.errors import AsrError, InternalError, InvalidInput, RetryableError
from predictor.types import EngineFinish, EngineRequest, EngineTimes, ExtendRequest, TokenChunk

_HEADER: Final = struct.Struct("=IB")
_FINISHES: Final = (None, *get_args(EngineFinish))
_NUMBERS: Final = "I"  # array code of unsigned numbers below 2**32
_LOGPROBS: Final = "d"
_MAX_PULSE_S: Final = 1.0
_SIZE: Final = struct.Struct("=I")
_SAMPLE_TYPES: Final = {"f": "float32", "h": "int16"}
MAX_INLINE_BYTES: Final = 1 << 16  # of samples that travel in the frame: 1 s of float32
_TIMES: Final = tuple(field.name for field in fields(EngineTimes))
_NO_TIMES: Final = (0.0,) * len(_TIMES)

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
    """The engine takes requests; what whoever sends some must know of it."""

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
    """A request, as the engine takes it; its samples come as an open file with this frame, or in
    it.

    They are float32, or int16 for samples times 32768.
    """

    number: int  # of the request, by which answers name it
    # Read from a frame without its samples, they are not set yet.
    request: EngineRequest | ExtendRequest

    @property
    def is_inline(self) -> bool:
        """Its samples travel in the frame."""
        return self.request.samples.nbytes <= MAX_INLINE_BYTES


@dataclass(frozen=True, slots=True)
class Abort:
    """Its stream was left."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Truncate:
    """A kept sequence goes back to its first samples."""

    sequence_id: str
    num_samples: int


@dataclass(frozen=True, slots=True)
class Close:
    """A kept sequence will not be extended any more."""

    sequence_id: str


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
    """What the engine holds after some steps, and to one of those who listen, these steps."""

    now: EngineStats
    steps: tuple[StepStats, ...] = ()


@dataclass(frozen=True, slots=True)
class Pulse:
    """Sent every now and then: whether the engine's loop turns, and what it holds."""

    is_alive: bool
    now: EngineStats


def pulse_s(options: EngineOptions) -> float:
    """Seconds between two pulses: often enough to notice a step that hangs."""
    return min(_MAX_PULSE_S, options.stall_timeout_s / 4)


def max_silence_s(options: EngineOptions) -> float:
    """Seconds without a pulse after which servers call an engine's process dead: it hangs in the
    device's library, and not even its other threads run."""
    return options.stall_timeout_s + 2 * pulse_s(options)


def kill_after_s(options: EngineOptions) -> float:
    """Seconds without a pulse after which whoever started the process ends it: after servers have
    said so."""
    return options.stall_timeout_s + 4 * pulse_s(options)


Message: TypeAlias = (
    EngineSpec
    | Loaded
    | LoadFailed
    | Submit
    | Abort
    | Truncate
    | Close
    | Chunks
    | Failed
    | Stepped
    | Pulse
)


def encode(message: Message) -> bytes:
    """`message` as a frame."""
    kind = _KINDS.index(type(message))
    if isinstance(message, Chunks):
        payload = _pack_chunks(message)
    elif isinstance(message, Submit):
        payload = _pack_submit(message)
    else:
        payload = orjson.dumps(_plain(message), default=str)
    return _HEADER.pack(len(payload), kind) + payload


class Frames:
    """Bytes in, in whatever pieces they arrive; messages out."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes | memoryview) -> list[Message]:
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
    return _shallow(message)  # orjson knows the dataclasses within


def _shallow(message: Any) -> dict[str, Any]:
    return {name: getattr(message, name) for name in message.__slots__}  # quicker than `fields`


def _pack_submit(message: Submit) -> bytes:
    """The size of the JSON, the JSON, and the samples if they are few."""
    values = _shallow(message.request)
    samples = values.pop("samples")
    kept = isinstance(message.request, ExtendRequest)
    # Not `dtype.name`, which numpy makes up each time, in Python.
    audio = {"num_samples": len(samples), "sample_type": _SAMPLE_TYPES[samples.dtype.char]}
    said = orjson.dumps({"number": message.number, "kept": kept, **audio, "request": values})
    return _SIZE.pack(len(said)) + said + (samples.tobytes() if message.is_inline else b"")


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


def _read_submit(payload: bytes) -> Submit:
    (size,) = _SIZE.unpack_from(payload)
    values = orjson.loads(payload[_SIZE.size : _SIZE.size + size])
    if values["sample_type"] not in _SAMPLE_TYPES.values():
        raise ValueError(f"samples of type {values['sample_type']!r}")
    samples = np.empty(values["num_samples"], dtype=values["sample_type"])
    if samples.nbytes <= MAX_INLINE_BYTES:
        samples[:] = np.frombuffer(payload, samples.dtype, offset=_SIZE.size + size)
    fields: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in values["request"].items()
    }
    kind = ExtendRequest if values["kept"] else EngineRequest
    return Submit(values["number"], kind(samples=samples, **fields))


def _read_stepped(values: dict[str, Any]) -> Stepped:
    return Stepped(EngineStats(**values["now"]), tuple(map(_step, values["steps"])))


def _step(values: dict[str, Any]) -> StepStats:
    queue_s, device_s = tuple(values["queue_s"]), tuple(map(tuple, values["device_s"]))
    return StepStats(**values | {"queue_s": queue_s, "device_s": device_s})


def _read_pulse(values: dict[str, Any]) -> Pulse:
    return Pulse(values["is_alive"], EngineStats(**values["now"]))


def _from_json(read: Callable[[dict[str, Any]], Message]) -> Callable[[bytes], Message]:
    return lambda payload: read(orjson.loads(payload))


def _pack_chunks(message: Chunks) -> bytes:
    """Seven numbers for each request, then all tokens, then all log-probabilities and times."""
    numbers = array(_NUMBERS, [len(message.items)])
    logprobs = array(_LOGPROBS)
    for number, chunk in message.items:
        finish = _FINISHES.index(chunk.finish)
        counts = (chunk.num_prompt_tokens, chunk.num_audio_tokens, chunk.num_draft_accepted)
        sizes = (len(chunk.token_ids), len(chunk.forced_logprobs))
        numbers.extend((number, finish, *counts, *sizes))
    for _, chunk in message.items:
        numbers.extend(chunk.token_ids)
        logprobs.extend(chunk.logprobs)
        logprobs.extend(chunk.forced_logprobs)
    for _, chunk in message.items:
        if chunk.finish is not None:
            times = chunk.times
            logprobs.extend([getattr(times, name) for name in _TIMES] if times else _NO_TIMES)
    return numbers.tobytes() + logprobs.tobytes()


def _read_chunks(payload: bytes) -> Chunks:
    """The twin of `_pack_chunks`; each token has a log-probability."""
    (num_items,) = struct.unpack_from("=I", payload)
    first_token = 1 + 7 * num_items
    heads = array(_NUMBERS, payload[4 : 4 * first_token]).tolist()
    num_tokens = sum(heads[5::7])
    end = 4 * (first_token + num_tokens)
    tokens = array(_NUMBERS, payload[4 * first_token : end]).tolist()
    logprobs = array(_LOGPROBS, payload[end:]).tolist()
    items, token, score = [], 0, 0
    time = num_tokens + sum(heads[6::7])
    for i in range(0, len(heads), 7):
        number, finish, num_prompt, num_audio, num_accepted, size, num_forced = heads[i : i + 7]
        times = None
        if finish:
            times, time = _times(logprobs[time : time + len(_NO_TIMES)]), time + len(_NO_TIMES)
        chunk = TokenChunk(
            token_ids=tuple(tokens[token : token + size]),
            logprobs=tuple(logprobs[score : score + size]),
            finish=_FINISHES[finish],
            num_prompt_tokens=num_prompt,
            num_audio_tokens=num_audio,
            num_draft_accepted=num_accepted,
            forced_logprobs=tuple(logprobs[score + size : score + size + num_forced]),
            times=times,
        )
        items.append((number, chunk))
        token, score = token + size, score + size + num_forced
    return Chunks(tuple(items))


def _times(values: list[float]) -> EngineTimes | None:
    if not any(values):
        return None
    queued_s, began_s, first_token_s, ended_s, step, batch_size = values
    return EngineTimes(queued_s, began_s, first_token_s, ended_s, int(step), int(batch_size))


_READERS: Final[dict[type, Callable[[bytes], Message]]] = {
    EngineSpec: _from_json(_read_spec),
    Loaded: _from_json(_read_loaded),
    LoadFailed: _from_json(lambda values: LoadFailed(**values)),
    Submit: _read_submit,
    Abort: _from_json(lambda values: Abort(**values)),
    Truncate: _from_json(lambda values: Truncate(**values)),
    Close: _from_json(lambda values: Close(**values)),
    Chunks: _read_chunks,
    Failed: _from_json(lambda values: Failed(values.pop("number"), _error(values))),
    Stepped: _from_json(_read_stepped),
    Pulse: _from_json(_read_pulse),
}
_KINDS: Final = tuple(_READERS)  # a frame's kind is the place in this list
