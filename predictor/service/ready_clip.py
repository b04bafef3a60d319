"""The clip that the model must transcribe before it is called ready, and what a sound model says.

Weights or a tokenizer that were damaged still load and still answer: nonsense.
"""

from __future__ import annotations

import difflib
import math
from pathlib import Path
from typing import Final

import numpy as np
import soundfile

from predictor.audio.decode import AudioDecoder
from predictor.types import SAMPLE_RATE_HZ, Samples, Transcription

CLIP = Path(__file__).parents[1] / "recordings" / "demo-en-1.flac"
_UP: Final = 3  # to 48 kHz, by repeating samples
_MIN_CORRELATION: Final = 0.95
MIN_CONFIDENCE: Final = 0.2  # of clear speech; a sound model is above 0.9
MIN_LIKENESS: Final = 0.7  # to the text that the checkpoint tells; 8 bits may change a letter


def ready_clip() -> Samples:
    """[num_samples] at 16 kHz: three seconds of speech."""
    samples, rate_hz = soundfile.read(CLIP, dtype="float32")
    if rate_hz != SAMPLE_RATE_HZ or samples.ndim != 1:
        raise RuntimeError(f"{CLIP.name} must be 16 kHz mono")
    clip: Samples = samples
    return clip


async def through_decoder(decoder: AudioDecoder, clip: Samples) -> Samples:
    """The clip as it comes out of a decoder process that resamples: [num_samples] at 16 kHz.

    Raises RuntimeError when that is not the clip: a resampler that does not fit its library would
    be noticed by callers only.
    """
    heard = await decoder.from_waveform(np.repeat(clip, _UP), SAMPLE_RATE_HZ * _UP, field="clip")
    if abs(len(heard) - len(clip)) > 1:
        raise RuntimeError(f"the resampler makes {len(heard)} samples of {len(clip)}")
    length = min(len(heard), len(clip))
    alike = float(np.corrcoef(heard[:length], clip[:length])[0, 1])
    if not alike > _MIN_CORRELATION:
        raise RuntimeError(
            f"the resampler is broken: correlation {alike:.3f} with what it was given"
        )
    return heard


def check_ready(answer: Transcription, expected_text: str | None) -> None:
    """Raises RuntimeError unless `answer` is what a sound model says of the clip.

    The text of a clip that was cut (pieces may be set shorter than it) is not compared.
    """
    if len(answer.segments) > 1:
        expected_text = None
    if not math.isfinite(answer.confidence) or answer.usage.num_completion_tokens == 0:
        raise RuntimeError("the model gave no finite answer for the built-in clip")
    problems = {
        "hears no speech": not answer.text,
        "names no language": answer.language is None,
        f"ends by {answer.finish_reason}": answer.finish_reason != "stop",
        f"has confidence {answer.confidence:.3f}, at least {MIN_CONFIDENCE} is expected": (
            answer.confidence < MIN_CONFIDENCE
        ),
        f"says {answer.text[:80]!r}, {expected_text!r} is expected": (
            expected_text is not None and likeness(answer.text, expected_text) < MIN_LIKENESS
        ),
    }
    found = [problem for problem, is_so in problems.items() if is_so]
    if found:
        raise RuntimeError(
            f"the weights or the tokenizer are damaged: of the built-in clip the model {found[0]}"
        )


def likeness(text: str, expected: str) -> float:
    """0 to 1: how much of the two is the same, in the same order."""
    return difflib.SequenceMatcher(None, text.lower(), expected.lower()).ratio()
