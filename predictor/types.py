"""The plain data that passes between modules: frozen, without torch, fit for other processes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16_000  # the only rate the model hears; decoding resamples to it

Samples = NDArray[np.float32]  # [num_samples], mono, 16 kHz, nominally within [-1, 1]
# The same times 32768, for what came in as 16 bits: half the bytes from process to process.
Pcm16 = NDArray[np.int16]
AnySamples = Samples | Pcm16

EngineFinish = Literal["stop", "length", "repetition", "abort"]
FinishReason = Literal["stop", "length", "repetition", "silence"]


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """What the engine needs for one sequence: audio between two runs of prompt tokens."""

    request_id: str  # unique among the requests in flight
    samples: AnySamples
    tokens_before: tuple[int, ...]  # prompt token ids up to and including <|audio_start|>
    tokens_after: tuple[int, ...]  # from <|audio_end|> to the last prompt token
    max_new_tokens: int  # the end-of-sequence token counts as one
    # Hand tokens out as they come; if not, the first ones, and all others at the end. Each time
    # wakes the consumer, which costs more than the tokens do.
    is_streamed: bool = True
    # Answer tokens taken as given: part of the prompt, behind tokens_after.
    forced: tuple[int, ...] = ()
    scores_forced: bool = False  # tell their log-probabilities, which costs the head over each
    # How the answer is expected to go on; what greedy decoding agrees with costs no step of its
    # own, and the answer is the same whatever stands here.
    draft: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ExtendRequest:
    """One step of a sequence that stays alive: more of an utterance, and its answer anew.

    The engine keeps the utterance's samples, and the keys and values of what can no longer change.
    """

    request_id: str  # of this step: unique among the requests in flight
    sequence_id: str  # of the kept sequence; a step begins when the one before has ended
    samples: AnySamples  # what is new since the step before; may be empty after the first one
    tokens_before: tuple[int, ...]  # as of EngineRequest; the same in all steps of an utterance
    tokens_after: tuple[int, ...]
    max_new_tokens: int
    forced: tuple[int, ...] = ()
    draft: tuple[int, ...] = ()
    scores_forced: bool = False
    starts_anew: bool = False  # a new utterance: what was heard before is dropped
    is_streamed: bool = False


@dataclass(frozen=True, slots=True)
class TokenChunk:
    """What one or more decode steps added to a sequence; the last chunk carries `finish`.

    The end-of-sequence token is never among `token_ids`.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]  # natural log of the probability of each token, same length
    finish: EngineFinish | None = None
    num_prompt_tokens: int = 0  # audio and text, set on the last chunk
    num_audio_tokens: int = 0  # set on the last chunk
    num_draft_accepted: int = 0  # draft tokens that greedy decoding agreed with; on the last chunk
    forced_logprobs: tuple[float, ...] = ()  # of forced tokens, if asked for; on the last chunk
    times: EngineTimes | None = field(default=None, compare=False)  # on the last chunk


@dataclass(frozen=True, slots=True)
class EngineTimes:
    """When a request was where in the engine, in seconds of the machine's monotonic clock.

    0 for what it did not come to.
    """

    queued_s: float
    began_s: float  # its prefill step
    first_token_s: float
    ended_s: float
    step: int  # number of that prefill step since the engine's start
    batch_size: int  # sequences in that step


@dataclass(frozen=True, slots=True)
class AudioPiece:
    """A part of a recording that is transcribed on its own; what lies in none holds no speech."""

    samples: AnySamples
    start_s: float  # in the recording
    end_s: float
    channel: int | None = None  # when each channel is heard on its own
    # Two pieces both have a short pause, or where nobody pauses the time about the cut.
    overlap_s: float = 0.0  # of its beginning, that the piece before has too
    continues: bool = False  # it ends in speech, some of which the piece behind it has too
    goes_on: bool = False  # it begins in speech, some of which the piece before it has too

    @property
    def new_s(self) -> float:
        """Seconds that no piece before it has."""
        return self.end_s - self.start_s - self.overlap_s

    @property
    def meets_others(self) -> bool:
        """Whether its text is certain only beside that of its neighbours."""
        return self.goes_on or self.continues


@dataclass(frozen=True, slots=True)
class AudioEnd:
    """What is known of a recording when all of it was decoded."""

    duration_s: float
    notes: tuple[str, ...] = ()  # what was done to it that its sender may not expect
    speech_probability: float = 1.0  # of the likeliest 32 ms
    decode_s: float = 0.0  # that decoding took, without waiting


@dataclass(frozen=True, slots=True)
class TextRequest:
    """What is asked for, besides the recording."""

    language: str | None = None  # canonical name such as "English"; None = detect
    context: str = ""  # hot words or any text that helps, put in the system turn
    max_new_tokens: int | None = None  # of one piece; None = by the audio's length
    with_words: bool = False  # say when each word was said
    for_cues: bool = False  # the same for subtitles, which do without where that is not known
    said: str | None = None  # what was said, of which times are asked and nothing else
    # What may be said: it changes the time of the first piece, never its text. Where no language is
    # forced it begins with `language NAME<asr_text>`, as the model's answer does.
    draft: str = ""


@dataclass(frozen=True, slots=True)
class TranscribeRequest:
    """Samples to transcribe, all of them, that already lie in memory."""

    samples: Samples
    language: str | None = None
    context: str = ""
    max_new_tokens: int | None = None

    @property
    def text(self) -> TextRequest:
        """What is asked for."""
        return TextRequest(self.language, self.context, self.max_new_tokens)


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one answer."""

    num_audio_tokens: int
    num_prompt_tokens: int  # audio tokens included
    num_completion_tokens: int


@dataclass(frozen=True, slots=True)
class Word:
    """A word as it stands in the text, without the punctuation around it; or one ideograph."""

    text: str
    start_s: float  # in the recording
    end_s: float
    # 0..1, geometric mean of the probabilities of its tokens; None for a word that was given.
    confidence: float | None


@dataclass(frozen=True, slots=True)
class Segment:
    """One piece of a recording: long recordings are cut at pauses, short ones are one segment."""

    id: int
    start_s: float
    end_s: float
    text: str
    language: str | None
    confidence: float  # 0..1
    avg_logprob: float  # mean natural log-probability of the text tokens
    finish_reason: FinishReason
    token_ids: tuple[int, ...] = ()
    token_logprobs: tuple[float, ...] = ()  # natural log, one for each of `token_ids`
    num_header_tokens: int = 0  # of `token_ids`, the first ones: they name the language
    channel: int | None = None  # when each channel was heard on its own
    words: tuple[Word, ...] | None = None  # where it is known when each was said


@dataclass(frozen=True, slots=True)
class Transcription:
    """The answer for one recording."""

    text: str
    language: str | None  # forced or detected; None = no speech heard
    confidence: float  # 0..1, geometric mean of the probabilities of the text's tokens; for
    # empty text of those that say so
    duration_s: float  # seconds of audio in the request
    finish_reason: FinishReason
    usage: Usage
    segments: tuple[Segment, ...] = field(default_factory=tuple)
    num_repeats_removed: int = 0  # characters the repetition clean-up took away
    words: tuple[Word, ...] | None = None  # in time order, if they were asked for
    notes: tuple[str, ...] = ()  # what was done to the recording that its sender may not expect
