"""What routes hand to the model: recordings as they came, and how to say the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictor.audio.limits import AS_SET, Hearing
from predictor.types import Transcription


@dataclass(frozen=True, slots=True)
class Recording:
    """One recording as it came in: encoded bytes, or samples at some rate."""

    data: bytes | memoryview | None = None
    content_type: str | None = None
    waveform: NDArray[np.float32] | None = None  # [num_samples], mono
    sample_rate_hz: int = 0  # of `waveform`
    field: str = "audio"  # what the caller named it, for errors
    language: str | None = None  # canonical name; None = detect
    hearing: Hearing = AS_SET
    for_cues: bool = False  # the answer becomes subtitles
    with_words: bool = False  # say when each word was said
    words_field: str = "words"  # what the caller named it, for errors
    said: str | None = None  # what was said in it, of which times are asked and nothing else
    context: str = ""
    draft: str = ""  # what may be said, for speed alone
    context_field: str = "context"  # what the caller named it, for errors


@dataclass(frozen=True, slots=True)
class Call:
    """What a route asks of the model, and how to say the answer in the route's protocol."""

    protocol: str  # one of metrics.PROTOCOLS
    recordings: tuple[Recording, ...]
    render: Callable[[list[Transcription]], Any]
    indexed: bool = False  # errors name the item of the batch
