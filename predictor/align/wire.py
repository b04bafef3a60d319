"""What travels between a server and the aligner's process: small JSON messages and memory files.

Each request has a connection of its own (SOCK_SEQPACKET), so a server that leaves says so by
closing it, and a process that dies by its end. Samples, words and times lie in anonymous files
beside the messages; nothing is pickled.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import BinaryIO, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from predictor.shared_samples import as_float
from predictor.types import AnySamples, Samples

MAX_MESSAGE_BYTES: Final = 65_536
_T = TypeVar("_T", bound=np.generic)
Times = NDArray[np.float64]  # [words, 2] starts and ends, seconds


@dataclass(frozen=True, slots=True)
class AlignerSpec:
    """What the process must know to load its checkpoint."""

    folder: str
    device: str
    precision: str  # of `choose_precision`
    num_threads: int | None
    max_batch_s: float  # of audio
    max_waiting: int  # requests
    gather_s: float  # from one batch's start to the next one's, where that is not full
    log_format: str
    log_level: str


@dataclass(frozen=True, slots=True)
class AlignerInfo:
    """What a loaded aligner can do."""

    languages: tuple[str, ...]
    max_audio_s: float  # of one request


@dataclass(frozen=True, slots=True)
class Question:
    """A request, whose samples and words come as two files; without words: what can you do?"""

    num_samples: int = 0
    num_words: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """Times come as a file; `info`, or what went wrong, in here."""

    num_words: int = 0
    info: AlignerInfo | None = None
    error: str = ""  # "busy" or "failed"


def spec_from_json(line: bytes) -> AlignerSpec:
    """Of `to_json`."""
    return AlignerSpec(**json.loads(line))


def question_from_json(line: bytes) -> Question:
    """Of `to_json`."""
    return Question(**json.loads(line))


def answer_from_json(line: bytes) -> Answer:
    """Of `to_json`."""
    values = json.loads(line)
    if (info := values["info"]) is not None:
        values["info"] = AlignerInfo(tuple(info["languages"]), info["max_audio_s"])
    return Answer(**values)


def to_json(message: AlignerSpec | Question | Answer) -> bytes:
    """One message."""
    return json.dumps(asdict(message)).encode()


def send(channel: socket.socket, message: Question | Answer, *files: BinaryIO) -> None:
    """A message and its files. Raises OSError when nobody reads it."""
    socket.send_fds(channel, [to_json(message)], [file.fileno() for file in files])


def receive(channel: socket.socket) -> tuple[bytes, list[BinaryIO]]:
    """The next message and its files, which are the caller's to close; b"" at the end."""
    try:
        line, fds, _, _ = socket.recv_fds(channel, MAX_MESSAGE_BYTES, 2)
    except ConnectionResetError:
        return b"", []
    return line, [open(fd, "r+b", buffering=0) for fd in fds]


def samples_file(samples: AnySamples) -> BinaryIO:
    """A new file in memory with float32 samples."""
    return _file(np.ascontiguousarray(as_float(samples)).data.cast("B"))


def words_file(words: Sequence[str]) -> BinaryIO:
    """A new file in memory with words."""
    return _file(memoryview(json.dumps(list(words)).encode()))


def times_file(times: Times) -> BinaryIO:
    """A new file in memory with times."""
    return _file(np.ascontiguousarray(times, dtype=np.float64).data.cast("B"))


def read_samples(file: BinaryIO, num_samples: int) -> Samples:
    """[num_samples]. Raises ValueError when the file holds another number."""
    return _checked(np.frombuffer(_bytes(file), dtype=np.float32), num_samples)


def read_words(file: BinaryIO) -> tuple[str, ...]:
    """All of them."""
    return tuple(json.loads(_bytes(file)))


def read_times(file: BinaryIO, num_words: int) -> Times:
    """[num_words, 2]. Raises ValueError when the file holds another number."""
    values = np.frombuffer(_bytes(file), dtype=np.float64).copy()
    return _checked(values, 2 * num_words).reshape(-1, 2)


def _file(data: memoryview) -> BinaryIO:
    file = open(os.memfd_create("align"), "r+b", buffering=0)  # noqa: SIM115  # the caller's
    rest = data
    while rest:
        rest = rest[os.write(file.fileno(), rest) :]
    return file


def _bytes(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read()


def _checked(values: NDArray[_T], number: int) -> NDArray[_T]:
    if len(values) != number:
        raise ValueError(f"{len(values)} numbers came, and not {number}")
    return values
