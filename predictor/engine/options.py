"""The engine's settings and the plain figures it reports."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

Phase = Literal["prefill", "decode"]


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Bounds of what the engine takes on at once; every queue in it ends at one of these."""

    max_num_seqs: int = 64  # sequences that decode together; fewer if memory holds fewer slots
    max_model_len: int = 3072  # tokens of one sequence: audio, prompt and answer
    kv_precision: str = "auto"  # of the cache: what activations are, or "fp8"
    kv_memory_fraction: float = 0.85  # of the memory free once the weights are loaded
    max_prefill_audio_s: float = 120.0  # seconds of audio prefilled in one step, or one clip
    max_prefill_tokens: int = 8192  # audio and prompt tokens of one step, or one sequence
    max_kept_sequences: int = (
        1024  # sequences that stay alive; beyond it extend() raises Overloaded
    )
    max_kept_audio_s: float = 14_400.0  # seconds of audio of them all; beyond it likewise
    max_tokens_per_audio_s: float = 16.0  # caps the answer; fast speech needs about 8
    min_token_cap: int = 64  # the cap for the shortest clips
    max_repeat_period: int = 20  # longest pattern, in tokens, that counts as a repetition
    max_repeats: int = 20  # a pattern seen more often than this in a row ends the sequence
    stall_timeout_s: float = 60.0  # a step longer than this means that the device hangs

    def __post_init__(self) -> None:
        for setting in fields(self):
            name, value = setting.name, getattr(self, setting.name)
            if isinstance(value, bool):
                continue
            if isinstance(value, int):
                self._require(name, value >= 1, "at least 1")
            elif isinstance(value, float):
                self._require(name, 0 < value < math.inf, "above 0 and finite")
        self._require("kv_precision", self.kv_precision in ("auto", "fp8"), "auto or fp8")
        self._require("kv_memory_fraction", self.kv_memory_fraction <= 1, "1 at most")

    def _require(self, name: str, holds: bool, what: str) -> None:
        if not holds:
            raise ValueError(f"engine option {name} must be {what}, is {getattr(self, name)!r}")


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A look at the engine between two steps."""

    num_waiting: int  # requests in the queue
    num_running: int  # sequences that hold a slot
    waiting_audio_s: float
    running_audio_s: float
    num_slots: int
    max_model_len: int
    num_finished: int = 0  # since the start, aborted ones included
    num_failed: int = 0  # since the start, ended by an error of ours
    num_pages: int = 0  # of the cache
    num_free_pages: int = 0
    num_kept: int = 0  # sequences that stay alive
    num_preempted: int = 0  # since the start: sequences that gave up their pages for older ones
    audio_per_busy_s: float = 0.0  # seconds of audio a second of work, lately; 0 = not known yet
    num_prefix_hits: int = 0  # since the start: prompts whose beginning was in the cache
    num_prefix_misses: int = 0  # since the start: those of a page or more that was not
    num_draft_tokens: int = 0  # since the start: offered
    num_draft_accepted: int = 0  # since the start: of these, what greedy decoding agreed with
    num_unprepared: int = 0  # engines (1 of one) that may have graphs left to capture at rest


@dataclass(frozen=True, slots=True)
class StepStats:
    """One step on the device, as handed to the observer in the engine's thread."""

    phase: Phase
    num_seqs: int
    num_prompt_tokens: int  # 0 in a decode step
    num_new_tokens: int
    audio_s: float  # seconds of audio prefilled; 0 in a decode step
    seconds: float  # of the engine's thread; a runner that runs ahead is not done by then
    num_waiting: int  # after the step
    num_running: int  # after the step
    queue_s: tuple[float, ...] = ()  # seconds that each sequence of a prefill step had waited
    # What the device took for which part of the work that arrived in this step, if it is known.
    device_s: tuple[tuple[str, float], ...] = ()
