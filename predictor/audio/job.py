"""What the server and a decoder process tell each other: a job, and the messages that answer it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from predictor.audio.limits import AudioLimits, AudioOptions, CutOptions
from predictor.audio.pcm import PcmLayout
from predictor.audio.sniff import Container
from predictor.errors import AudioError, AudioTooLong, InvalidInput


@dataclass(frozen=True, slots=True)
class Job:
    """One recording to decode; its bytes travel as an open file."""

    container: Container | None  # None: raw samples as `layout` says
    layout: PcmLayout | None
    limits: AudioLimits
    options: AudioOptions
    cuts: CutOptions
    granted_s: float  # of audio, over all channels heard, before it must ask
    field: str
    # Where in the file it lies; None: it is the whole file, which nobody else reads.
    begin: int = 0
    num_bytes: int | None = None
    # Whether it may take long; else it asks when it does, which moves it to where others do.
    is_long: bool = False

    def to_json(self) -> bytes:
        return orjson.dumps(self)

    @staticmethod
    def from_json(line: bytes) -> Job:
        values = orjson.loads(line)
        layout = values["layout"]
        return Job(
            **{
                **values,
                "layout": None if layout is None else PcmLayout(**layout),
                "limits": AudioLimits(**values["limits"]),
                "options": AudioOptions(**values["options"]),
                "cuts": CutOptions(**values["cuts"]),
            }
        )


@dataclass(frozen=True, slots=True)
class Message:
    """From the process: a piece, a question for more seconds, the end, or an error."""

    kind: str  # "piece", "more", "end" or "error"
    # A piece; its samples come as an open file.
    num_samples: int = 0
    sample_type: str = "float32"  # or "int16"
    start: int = 0  # in samples at 16 kHz
    channel: int | None = None  # when each channel is heard on its own
    overlap: int = 0  # samples, as of Cut
    continues: bool = False
    # "more" and "end": seconds of audio, over all channels heard.
    decoded_s: float = 0.0
    dropped_s: float = 0.0  # of them in no piece
    waiting_s: float = 0.0  # of them in no piece yet
    num_channels: int = 0  # heard
    # "end"
    duration_s: float = 0.0
    speech_probability: float = 0.0  # of the likeliest 32 ms
    busy_s: float = 0.0  # spent decoding, without waiting
    notes: tuple[str, ...] = ()
    # "error"
    error: str = ""  # name of the class in predictor.errors
    message: str = ""
    value: Any = None
    limit: Any = None

    def to_json(self) -> bytes:
        return orjson.dumps(self)

    @staticmethod
    def from_json(line: bytes) -> Message:
        values = orjson.loads(line)
        return Message(**{**values, "notes": tuple(values["notes"])})

    def raise_error(self, field: str) -> None:
        """Raise the error this message carries, if it carries one."""
        if self.kind == "error":
            kinds = {kind.__name__: kind for kind in (AudioError, AudioTooLong, InvalidInput)}
            raise kinds[self.error](self.message, field=field, value=self.value, limit=self.limit)
