"""The sequences that stay alive between their steps, and their bounds."""

from __future__ import annotations

from predictor.engine.checks import check_samples
from predictor.engine.options import EngineOptions
from predictor.engine.scheduler import Scheduler
from predictor.engine.sequence import Limits
from predictor.engine.utterance import Utterance
from predictor.errors import InvalidInput, Overloaded
from predictor.model.stretch import Windows
from predictor.types import SAMPLE_RATE_HZ, EngineRequest, ExtendRequest


class KeptSequences:
    """By id; guarded by the engine's lock."""

    def __init__(self, options: EngineOptions, limits: Limits) -> None:
        self._options = options
        self._windows = Windows(limits.window_chunks)
        self._utterances: dict[str, Utterance] = {}
        self._num_samples = 0  # of them all

    def __len__(self) -> int:
        return len(self._utterances)

    def extend(self, step: ExtendRequest, scheduler: Scheduler) -> None:
        """Queue a step. InvalidInput or Overloaded leave everything as it was."""
        kept = self._utterances.get(step.sequence_id)
        if kept is not None and scheduler.is_in_flight(kept.request_id):
            raise step_in_flight(step.sequence_id)
        self._check_room(kept, len(step.samples) / SAMPLE_RATE_HZ)
        utterance = kept
        if utterance is None or step.starts_anew:
            utterance = Utterance(self._windows, step.tokens_before)
        if utterance.tokens_before != step.tokens_before:
            raise InvalidInput(
                f"the prompt before the audio of sequence {step.sequence_id} has changed within an "
                "utterance",
                field="tokens_before",
                value=len(step.tokens_before),
                limit="as in its first step",
            )
        check_samples(step.samples, least=0)
        utterance.append(step.samples)
        request = EngineRequest(
            request_id=step.request_id,
            samples=utterance.samples,
            tokens_before=step.tokens_before,
            tokens_after=step.tokens_after,
            max_new_tokens=step.max_new_tokens,
            is_streamed=step.is_streamed,
            forced=step.forced,
            draft=step.draft,
            scores_forced=step.scores_forced,
        )
        try:
            scheduler.add(request, utterance)
        except Exception:
            utterance.take_back(len(step.samples))
            raise
        self._num_samples += len(step.samples)
        if kept is not None and kept is not utterance:
            self._num_samples -= len(kept.samples)
            scheduler.close(kept)
        utterance.request_id = step.request_id
        self._utterances[step.sequence_id] = utterance
        scheduler.num_kept = len(self._utterances)

    def newest_step(self, sequence_id: str) -> str | None:
        """The request id of a sequence's newest step."""
        utterance = self._utterances.get(sequence_id)
        return None if utterance is None else utterance.request_id

    def audio_s(self, sequence_id: str) -> float:
        """Seconds of audio of its utterance so far; 0 where it is not known."""
        utterance = self._utterances.get(sequence_id)
        return 0.0 if utterance is None else utterance.audio_s

    def truncate(self, sequence_id: str, num_samples: int, scheduler: Scheduler) -> None:
        """Back to the first `num_samples` samples; nothing happens to one that is not longer, or
        not known. InvalidInput while a step is in flight."""
        utterance = self._utterances.get(sequence_id)
        if utterance is None or num_samples >= len(utterance.samples):
            return
        if scheduler.is_in_flight(utterance.request_id):
            raise step_in_flight(sequence_id)
        self._num_samples -= len(utterance.samples) - num_samples
        if not utterance.num_cached:
            # An aborted step may still run, and would leave what it has cached with the utterance.
            fresh = Utterance(self._windows, utterance.tokens_before)
            fresh.append(utterance.samples[:num_samples])
            scheduler.close(utterance)
            self._utterances[sequence_id] = fresh
            return
        utterance.cut(num_samples)
        utterance.num_cached = min(utterance.num_cached, utterance.num_base_tokens)
        count = scheduler.pool.size.pages_for(utterance.num_cached)
        scheduler.pool.release(utterance.pages[count:])
        del utterance.pages[count:]

    def close(self, sequence_id: str, scheduler: Scheduler) -> str | None:
        """Forget a sequence; the id of its newest step, None where it was not known."""
        utterance = self._utterances.pop(sequence_id, None)
        if utterance is None:
            return None
        self._num_samples -= len(utterance.samples)
        scheduler.close(utterance)
        scheduler.num_kept = len(self._utterances)
        return utterance.request_id

    def _check_room(self, kept: Utterance | None, new_audio_s: float) -> None:
        options = self._options
        kept_s = self._num_samples / SAMPLE_RATE_HZ
        if kept is None and len(self._utterances) >= options.max_kept_sequences:
            raise Overloaded(
                f"{len(self._utterances)} sequences are kept alive; the limit is "
                f"{options.max_kept_sequences}"
            )
        if self._utterances and kept_s + new_audio_s > options.max_kept_audio_s:
            raise Overloaded(
                f"{kept_s:.0f} s of audio are kept for sequences that stay alive; the limit is "
                f"{options.max_kept_audio_s:g} s"
            )


def step_in_flight(sequence_id: str) -> InvalidInput:
    """For what has to wait until the step before has ended."""
    return InvalidInput(
        f"sequence {sequence_id} has a step in flight already",
        field="sequence_id",
        value=sequence_id,
        limit="one step at a time",
    )
