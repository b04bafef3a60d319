"""What is kept of a job, as plain data and as the JSON that stands in the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import orjson

from predictor.audio.limits import AudioOptions, CutOptions
from predictor.text.cue_lines import USUAL, SubtitleOptions
from predictor.text.joining import Piece
from predictor.text.output import ParsedOutput
from predictor.types import AudioEnd, TextRequest, Usage, Word

State = Literal["queued", "running", "done", "failed"]


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What was asked for, with the settings of that day: a job is cut the same way all its life."""

    content_type: str | None
    language: str | None  # canonical name; None = detect
    context: str
    options: AudioOptions
    cuts: CutOptions
    response_format: str  # of a result for which no other is asked
    with_logprobs: bool
    granularities: tuple[str, ...] = ()  # of times in verbose JSON
    cues: SubtitleOptions = USUAL
    url: str = ""  # from where the recording is fetched, if it did not come with the request
    webhook: str = ""  # to which the end of the job is told

    @property
    def with_words(self) -> bool:
        """Whether times of words are asked for."""
        return "word" in self.granularities

    @property
    def text(self) -> TextRequest:
        """What is asked for, besides the recording."""
        return TextRequest(
            self.language,
            self.context,
            with_words=self.with_words,
            for_cues=self.response_format in ("srt", "vtt"),
        )


@dataclass(frozen=True, slots=True)
class JobRecord:
    """One job as the store has it."""

    id: str
    owner: str  # "" where no keys are set
    state: State
    created_s: float  # Unix time
    ended_s: float | None
    num_bytes: int  # of the recording
    num_done: int  # pieces, transcribed without a gap from the beginning
    done_s: float  # of the recording, up to the end of those
    duration_s: float | None  # of the recording, as far as it is known
    spec: JobSpec
    error: Mapping[str, Any] | None  # {"message", "code", "param"} of a job that failed
    end: AudioEnd | None  # of a job that is done


def spec_to_json(spec: JobSpec) -> bytes:
    """The twin of `spec_of`."""
    return orjson.dumps(asdict(spec))


def spec_of(text: bytes | str) -> JobSpec:
    """A job's request from its JSON."""
    values = orjson.loads(text)
    options, cuts = AudioOptions(**values.pop("options")), CutOptions(**values.pop("cuts"))
    cues = SubtitleOptions(**values.pop("cues", {}))  # jobs of older versions have none
    values["granularities"] = tuple(values["granularities"])
    return JobSpec(**values, options=options, cuts=cuts, cues=cues)


def piece_to_json(piece: Piece) -> bytes:
    """The twin of `piece_of`."""
    return orjson.dumps(asdict(piece))


def piece_of(text: bytes | str) -> Piece:
    """A transcribed piece from its JSON."""
    values = orjson.loads(text)
    for name in ("token_ids", "token_logprobs"):
        values[name] = tuple(values[name])
    parsed, usage = ParsedOutput(**values.pop("parsed")), Usage(**values.pop("usage"))
    words = values.pop("words")
    times = None if words is None else tuple(Word(**word) for word in words)
    return Piece(**values, parsed=parsed, usage=usage, words=times)


def end_to_json(end: AudioEnd) -> bytes:
    """The twin of `end_of`."""
    return orjson.dumps(asdict(end))


def end_of(text: bytes | str) -> AudioEnd:
    """What is known of a recording at its end, from its JSON."""
    values = orjson.loads(text)
    return AudioEnd(**{**values, "notes": tuple(values["notes"])})
