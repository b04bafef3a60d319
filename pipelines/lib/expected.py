"""What is known, or guessed, of an evaluation to come: what `plan` counts recordings for."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.lib.errors import OptionError


@dataclass(frozen=True, slots=True)
class Expected:
    """What is known, or guessed, of the evaluation to come. Rates are shares."""

    rate: float  # the stable version's error rate
    difference: float = 0.0  # candidate minus stable, true; below 0 = the candidate is better
    words: float = 12.0  # reference words (or characters) in a recording
    clip_s: float = 5.0  # length of a recording
    burst: float = 2.0  # errors come in runs: variance of errors in a recording over their mean
    shared: float = 0.5  # share of the errors that both versions make
    clips_per_speaker: float = 1.0
    speaker_share: float = 0.05  # share of the variance that lies between speakers
    power: float = 0.8  # chance that the gate accepts such a candidate

    def __post_init__(self) -> None:
        within = {
            "rate": (self.rate, 0, 10), "words": (self.words, 1e-9, 1e6),
            "clip_s": (self.clip_s, 0, 1e6), "burst": (self.burst, 1e-9, 1e6),
            "shared": (self.shared, 0, 0.999),
            "clips_per_speaker": (self.clips_per_speaker, 1, 1e6),
            "speaker_share": (self.speaker_share, 0, 1), "power": (self.power, 0.5, 0.999),
        }  # fmt: skip
        for name, (value, low, high) in within.items():
            if not low <= value <= high:
                raise OptionError(f"plan: {name}: {value:g} is not within {low:g}..{high:g}")
