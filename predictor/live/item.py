"""One item as its client sees it: deltas that are never taken back, a tail, and the whole text."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from predictor.live.events import Completed, Partial, Word
from predictor.live.hypothesis import Hypothesis
from predictor.live.steps import Outcome
from predictor.text.languages import join_texts, needs_space
from predictor.types import SAMPLE_RATE_HZ


@dataclass(slots=True)
class Item:
    """The text of one or, in manual turns, several utterances. Positions are samples."""

    number: int
    start: int  # where its first speech begins
    end: int = 0
    last_words: tuple[Word, ...] = ()  # of the utterance that finished last
    _said: str = ""  # all deltas
    _texts: list[str] = field(default_factory=list)  # of its finished utterances
    _words: list[Word] = field(default_factory=list)
    _languages: dict[str, int] = field(default_factory=dict)  # with samples of their utterances
    _log_sum: float = 0.0
    _num_scored: int = 0
    _num_audio_tokens: int = 0
    _num_prompt_tokens: int = 0
    _num_completion_tokens: int = 0
    # Of the utterance that runs
    _shown: str = ""  # its committed text
    _num_shown_tokens: int = 0

    @property
    def last_text(self) -> str:
        """Of the utterance that finished last."""
        return self._texts[-1]

    @property
    def was_told(self) -> bool:
        """Whether the client has some of its text."""
        return bool(self._said)

    def partial(self, hypothesis: Hypothesis, end: int) -> Partial:
        """What a step changed; the audio it heard ends at sample `end`."""
        committed = hypothesis.text(committed=True)
        text = hypothesis.text()
        return self._told(
            hypothesis,
            committed,
            hypothesis.num_committed,
            tail=text[len(committed) :],
            end=end,
        )

    def finish_utterance(
        self, hypothesis: Hypothesis, outcome: Outcome | None, num_samples: int, end: int
    ) -> Partial:
        """The last of an utterance of `num_samples`; `outcome` is that of its last step."""
        final = hypothesis.final_text()
        # A text that was decoded anew may be another one; then no delta can say it.
        told = final if final.startswith(self._shown) else self._shown
        partial = self._told(hypothesis, told, len(hypothesis.tokens), tail="", end=end)
        self._texts.append(final)
        self.last_words = hypothesis.words(0) if final else ()
        self._words += self.last_words
        self.end = end
        if final:
            self._log_sum += hypothesis.log_sum
            self._num_scored += hypothesis.num_scored
            if hypothesis.language is not None:
                before = self._languages.get(hypothesis.language, 0)
                self._languages[hypothesis.language] = before + num_samples
        if outcome is not None:
            self._num_audio_tokens += outcome.num_audio_tokens
            self._num_prompt_tokens += outcome.num_prompt_tokens - outcome.num_audio_tokens
        self._num_completion_tokens += len(hypothesis.tokens)
        self._shown, self._num_shown_tokens = "", 0
        return partial

    def _told(
        self, hypothesis: Hypothesis, text: str, num_tokens: int, *, tail: str, end: int
    ) -> Partial:
        """The step from the text that was told to `text`, of the first `num_tokens` tokens."""
        delta = text[len(self._shown) :]
        if delta and not self._shown and needs_space(self._said, delta):
            delta = " " + delta
        first = self._num_shown_tokens
        if delta:
            self._shown, self._num_shown_tokens = text, num_tokens
        self._said += delta
        return Partial(
            item=self.number,
            delta=delta,
            tokens=hypothesis.scored(first, num_tokens) if delta else (),
            delta_words=hypothesis.words(first, num_tokens) if delta else (),
            tail=tail,
            tail_words=hypothesis.words(num_tokens) if tail else (),
            language=hypothesis.language,
            at_s=end / SAMPLE_RATE_HZ,
        )

    def completed(self, *, is_redone: bool) -> Completed:
        """The whole; `is_redone`: texts were decoded anew, and the deltas do not count."""
        mean = self._log_sum / self._num_scored if self._num_scored else -math.inf
        return Completed(
            item=self.number,
            text=join_texts([t for t in self._texts if t]) if is_redone else self._said,
            language=max(self._languages, key=self._languages.__getitem__, default=None),
            confidence=min(1.0, math.exp(mean)),
            words=tuple(self._words),
            start_s=self.start / SAMPLE_RATE_HZ,
            end_s=self.end / SAMPLE_RATE_HZ,
            num_audio_tokens=self._num_audio_tokens,
            num_prompt_tokens=self._num_prompt_tokens,
            num_completion_tokens=self._num_completion_tokens,
        )
