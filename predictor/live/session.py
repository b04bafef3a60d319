"""The algorithm of a live session, on the clock of its audio: frames in, steps and events out.

Speech is cut into utterances at pauses. While one runs, each `step_s` of it asks for a step of the
engine; between utterances there are none. What a session does depends on its audio alone, never on
when or in what pieces it came.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque

from predictor.errors import AsrError, InvalidInput
from predictor.growing_samples import GrowingSamples
from predictor.live.endpoint import Endpointer
from predictor.live.events import (
    Committed,
    Event,
    Failed,
    SpeechStarted,
    SpeechStopped,
    UtteranceEnded,
)
from predictor.live.hypothesis import Hypothesis
from predictor.live.item import Item
from predictor.live.options import FRAME_SAMPLES, LiveOptions, SessionConfig
from predictor.live.steps import Outcome, Step
from predictor.live.utterance import Utterance
from predictor.text.prompt import Prompt, PromptBuilder
from predictor.text.tokenizer import TextTokenizer
from predictor.types import SAMPLE_RATE_HZ, Samples

_ROOM = 4 * SAMPLE_RATE_HZ  # samples of an utterance that most fit into
_HEADER_TOKENS = 8  # beyond the cap by duration: "language Chinese<asr_text>"


class LiveSession:
    """One stream. Calls come in the order of the audio; a Step must be answered, by `take`, `skip`
    or `fail`, before the next call."""

    def __init__(
        self,
        prompts: PromptBuilder,
        tokenizer: TextTokenizer,
        options: LiveOptions,
        config: SessionConfig,
    ) -> None:
        """Raises InvalidInput for a context that is too long."""
        prompts.check_context(config.context)
        self.config = config
        self._prompts = prompts
        self._tokenizer = tokenizer
        self._options = options
        self._endpointer = Endpointer(options)
        self._events: list[Event | UtteranceEnded] = []
        self._now = 0  # samples heard
        self._turn_start = 0  # where the last item ended
        self._num_items = 0
        self._num_utterances = 0
        self._item: Item | None = None
        self._utterance: Utterance | None = None
        self._pending: Step | None = None
        self._before: deque[Samples] = deque()  # what an utterance may begin with

    @property
    def now_s(self) -> float:
        """Seconds of audio heard."""
        return self._now / SAMPLE_RATE_HZ

    @property
    def turn_s(self) -> float:
        """Seconds of audio since the last item ended."""
        return (self._now - self._turn_start) / SAMPLE_RATE_HZ

    @property
    def has_item(self) -> bool:
        """Whether an item is on its way."""
        return self._item is not None

    def configure(self, config: SessionConfig) -> None:
        """Change what holds from the next utterance on. Raises InvalidInput."""
        self._prompts.check_context(config.context)
        self.config = config

    @property
    def has_events(self) -> bool:
        """Whether `take_events` has any."""
        return bool(self._events)

    def take_events(self) -> list[Event | UtteranceEnded]:
        """What is new since the last call."""
        events, self._events = self._events, []
        return events

    def hear(self, frame: Samples, probability: float) -> Step | None:
        """Take the next frame [512 or, at the end, fewer] and the probability that it is speech."""
        assert self._pending is None, "the step before was not answered"
        start, self._now = self._now, self._now + len(frame)
        utterance = self._utterance
        if utterance is None:
            self._hear_outside(frame, probability, start)
            return None
        utterance.audio.append(frame)
        if self._endpointer.ends(self.config.turns, probability, start):
            return self._finish(utterance)
        if self._endpointer.is_too_long(self._now):
            utterance.goes_on = True
            return self._finish(utterance)
        if self._now < utterance.next_step:
            return None
        utterance.next_step += round(utterance.config.step_s * SAMPLE_RATE_HZ)
        return self._look(utterance)

    def commit(self) -> Step | None:
        """End the item that runs, as a pause would."""
        assert self._pending is None, "the step before was not answered"
        if self.config.is_manual and self._item is None:
            self._look_at_unheard()
        if self._utterance is not None:
            self._utterance.ends_item = True
            return self._finish(self._utterance)
        if self._item is not None:
            self._end_item()
        self._turn_start = self._now
        return None

    def clear(self) -> None:
        """Forget the audio of the item that runs; if some of its text was told, it fails."""
        assert self._pending is None, "the step before was not answered"
        self._drop(InvalidInput("the audio buffer was cleared", field="input_audio_buffer"))

    def take(self, outcome: Outcome) -> None:
        """The answer to the pending step."""
        step, utterance, item = self._pending, self._utterance, self._item
        assert step is not None and utterance is not None and item is not None  # noqa: PT018
        self._pending = None
        utterance.last = outcome
        utterance.num_heard = len(step.samples)
        if step.is_final and utterance.is_redone:
            utterance.hypothesis.replace(outcome.tokens, outcome.logprobs)
        else:
            end = utterance.begin + len(step.samples)
            speech_s = (end - utterance.speech_start) / SAMPLE_RATE_HZ
            tokens, logprobs = outcome.tokens, outcome.logprobs
            utterance.hypothesis.update(tokens, logprobs, outcome.finish, speech_s)
        if step.is_final:
            self._complete(utterance, item)
        else:
            end = utterance.begin + utterance.num_heard
            if utterance.is_resumed and not utterance.hypothesis.text():
                self._forget_resumed(utterance)
            self._events.append(item.partial(utterance.hypothesis, end))

    def skip(self) -> None:
        """The pending step was not run, for want of room; the next one makes up for it."""
        assert self._pending is None or not self._pending.is_final, "a final step is not skipped"
        self._pending = None

    def fail(self, error: AsrError) -> None:
        """The pending step cannot be run: its item ends here."""
        self._pending = None
        if self._item is not None and not self._item.was_told:
            self._events.append(Failed(self._item.number, error))
        self._drop(error)

    def _hear_outside(self, frame: Samples, probability: float, start: int) -> None:
        self._before.append(frame)
        turns = self.config.turns
        if self._endpointer.starts(turns, probability, start):
            speech_start = self._endpointer.speech_start or 0
            is_cold = speech_start <= round(self._options.detector_warm_up_s * SAMPLE_RATE_HZ)
            lead_in = round(turns.lead_in_s * SAMPLE_RATE_HZ)
            self._begin(speech_start, 0 if is_cold else speech_start - lead_in)
            return
        # A manual turn in which no speech is found is looked at all the same, as far as it fits.
        is_unheard = self.config.is_manual and self._item is None
        lead_in_s = max(turns.lead_in_s, self._options.detector_warm_up_s)
        keep_s = self._options.max_utterance_s if is_unheard else lead_in_s
        keep = round(keep_s * SAMPLE_RATE_HZ) + 2 * FRAME_SAMPLES
        while self._num_before() - len(self._before[0]) >= keep:
            self._before.popleft()

    def _num_before(self) -> int:
        return sum(map(len, self._before))

    def _begin(self, speech_start: int, begin: int) -> None:
        """An utterance whose audio begins at sample `begin`, or where it is still known."""
        frames = list(self._before)
        first = self._now - self._num_before()
        while frames and first + len(frames[0]) <= begin:
            first += len(frames.pop(0))
        if frames and first < begin:
            frames[0], first = frames[0][begin - first :], begin
        self._before.clear()
        audio = GrowingSamples(_ROOM)
        for frame in frames:
            audio.append(frame)
        self._num_utterances += 1
        config = self.config
        prompt, is_resumed = self._prompt()
        self._utterance = Utterance(
            number=self._num_utterances,
            begin=first,
            speech_start=max(speech_start, first),
            config=config,
            prompt=prompt,
            hypothesis=self._hypothesis(config),
            next_step=speech_start + round(self._options.first_step_s * SAMPLE_RATE_HZ),
            audio=audio,
            is_resumed=is_resumed,
        )
        if self._item is None:
            self._num_items += 1
            self._item = Item(self._num_items, speech_start)
        if not config.is_manual:
            self._events.append(SpeechStarted(self._item.number, speech_start / SAMPLE_RATE_HZ))

    def _hypothesis(self, config: SessionConfig) -> Hypothesis:
        header_s = self._options.header_s
        return Hypothesis(self._tokenizer, config.language, config.num_agreeing, header_s)

    def _prompt(self) -> tuple[Prompt, bool]:
        """Of an utterance that begins, and whether it has the text before the session."""
        config = self.config
        if config.resumed_text and self._num_utterances == 1:
            context = f"{config.context}\n{config.resumed_text}".strip()
            with contextlib.suppress(InvalidInput):  # together they may be too long
                return self._prompts.build(context, config.language), True
        return self._prompts.build(config.context, config.language), False

    def _forget_resumed(self, utterance: Utterance) -> None:
        """The model hears nothing behind the text before the session: go on without it. The
        context comes before the audio, so for the engine another utterance begins."""
        config = utterance.config
        self._num_utterances += 1
        utterance.number, utterance.is_resumed, utterance.num_heard = self._num_utterances, False, 0
        utterance.prompt = self._prompts.build(config.context, config.language)
        utterance.hypothesis = self._hypothesis(config)

    def _look_at_unheard(self) -> None:
        begin = max(self._now - self._num_before(), self._turn_start)
        if begin < self._now:
            self._endpointer.begin(begin)
            self._begin(begin, begin)

    def _look(self, utterance: Utterance) -> Step | None:
        """A step on the audio so far; None where the model would hear nothing new."""
        if self._audible(utterance) <= utterance.num_heard:
            return None
        self._pending = self._step(utterance, is_final=False)
        return self._pending

    def _finish(self, utterance: Utterance) -> Step | None:
        """The utterance's audio is complete: its last step, or None where the last one was that."""
        utterance.ends_item = utterance.ends_item or not self.config.is_manual
        item = self._item
        assert item is not None
        stop = self._endpointer.silence_start or self._now
        if not self.config.is_manual:
            self._events.append(SpeechStopped(item.number, stop / SAMPLE_RATE_HZ))
        if utterance.ends_item:
            self._events.append(Committed(item.number))
        is_heard = self._audible(utterance) <= utterance.num_heard
        if is_heard and not utterance.is_redone:
            self._complete(utterance, item)
            return None
        if utterance.is_resumed and utterance.last is None:
            self._forget_resumed(utterance)  # nobody could tell whether it does harm
        self._pending = self._step(utterance, is_final=True)
        return self._pending

    def _audible(self, utterance: Utterance) -> int:
        """Samples of the utterance that the model should hear by now."""
        return self._endpointer.audible_end(self._now) - utterance.begin

    def _step(self, utterance: Utterance, *, is_final: bool) -> Step:
        samples = utterance.audio.all[: self._audible(utterance)]
        hypothesis, options = utterance.hypothesis, self._options
        is_redone = is_final and utterance.is_redone
        forced = () if is_redone else hypothesis.forced
        cap = math.ceil(len(samples) / SAMPLE_RATE_HZ * options.max_tokens_per_audio_s)
        return Step(
            utterance=utterance.number,
            samples=samples,
            num_heard=min(utterance.num_heard, len(samples)),
            prompt=utterance.prompt,
            forced=forced,
            draft=hypothesis.tokens if is_redone else hypothesis.draft,
            max_new_tokens=max(1, cap + _HEADER_TOKENS - len(forced)),
            is_final=is_final,
        )

    def _complete(self, utterance: Utterance, item: Item) -> None:
        end = utterance.begin + utterance.num_heard
        hypothesis = utterance.hypothesis
        self._events.append(
            item.finish_utterance(hypothesis, utterance.last, utterance.num_heard, end)
        )
        self._utterance = None
        samples = utterance.audio.all
        if item.last_words:
            self._events.append(
                UtteranceEnded(
                    item.number, samples[: utterance.num_heard], utterance.begin / SAMPLE_RATE_HZ,
                    item.last_text, hypothesis.language, item.last_words,
                )
            )  # fmt: skip
        rest = samples[utterance.num_heard :].copy()  # not to keep the utterance for it
        self._before = deque([rest] if len(rest) else [])
        self._endpointer.end()
        if utterance.ends_item:
            self._end_item(was_committed=True)
        if utterance.goes_on:
            self._endpointer.begin(self._now)
            self._begin(self._now, self._now)

    def _end_item(self, *, was_committed: bool = False) -> None:
        item = self._item
        assert item is not None
        if not was_committed:
            self._events.append(Committed(item.number))
        self._events.append(item.completed(is_redone=self.config.final_redecode))
        self._item = None
        self._turn_start = self._now

    def _drop(self, error: AsrError) -> None:
        if self._item is not None and self._item.was_told:
            self._events.append(Failed(self._item.number, error))
        self._item = self._utterance = None
        self._before.clear()
        self._endpointer.end()
        self._turn_start = self._now
