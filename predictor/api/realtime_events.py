"""Events of a live session as OpenAI's realtime API writes them, and one of our own.

`conversation.item.input_audio_transcription.tail` carries the text behind the deltas, which may
still change, with the words' confidences; a client that does not know it loses nothing.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from predictor.errors import AsrError, InvalidInput
from predictor.live.events import (
    Committed,
    Completed,
    Event,
    Failed,
    Partial,
    ScoredToken,
    SpeechStarted,
    SpeechStopped,
    Word,
)
from predictor.text.languages import CODES

TRANSCRIPTION = "conversation.item.input_audio_transcription"
TAIL = f"{TRANSCRIPTION}.tail"

Json = dict[str, Any]


def new_id(kind: str) -> str:
    """An id such as `event_4f…`."""
    return f"{kind}_{uuid.uuid4().hex[:24]}"


def error_detail(error: AsrError, event_id: str | None = None) -> Json:
    """The `error` object of OpenAI's error event."""
    return {
        "type": error.spec.openai_type,
        "code": error.spec.code,
        "message": error.message,
        "param": error.field if isinstance(error, InvalidInput) else None,
        "event_id": event_id,
    }


class EventWriter:
    """Writes the events of one session. `offset_s`: audio of the sessions that this one resumes."""

    def __init__(self, *, offset_s: float = 0.0, num_items: int = 0) -> None:
        self._offset_s = offset_s
        self._first_item = num_items
        self._prefix = new_id("item")
        self._last_item: str | None = None
        self._tails: dict[int, str] = {}
        self._scored: dict[int, list[Json]] = {}
        self.with_logprobs = False

    def item_id(self, item: int) -> str:
        """The id of an item of the session."""
        return f"{self._prefix}_{self._first_item + item}"

    def write(self, event: Event) -> Iterator[Json]:
        """The JSON events that say `event`, in order."""
        item_id = self.item_id(event.item)
        if isinstance(event, SpeechStarted):
            yield self._event(
                "input_audio_buffer.speech_started",
                audio_start_ms=self._ms(event.at_s),
                item_id=item_id,
            )
        elif isinstance(event, SpeechStopped):
            yield self._event(
                "input_audio_buffer.speech_stopped",
                audio_end_ms=self._ms(event.at_s),
                item_id=item_id,
            )
        elif isinstance(event, Committed):
            yield from self._committed(item_id)
        elif isinstance(event, Partial):
            yield from self._partial(event, item_id)
        elif isinstance(event, Completed):
            yield self._completed(event, item_id)
        elif isinstance(event, Failed):
            self._tails.pop(event.item, None)
            self._scored.pop(event.item, None)
            yield self._event(
                f"{TRANSCRIPTION}.failed",
                item_id=item_id,
                content_index=0,
                error=error_detail(event.error),
            )

    def _committed(self, item_id: str) -> Iterator[Json]:
        before, self._last_item = self._last_item, item_id
        yield self._event("input_audio_buffer.committed", item_id=item_id, previous_item_id=before)
        item = {
            "id": item_id,
            "object": "realtime.item",
            "type": "message",
            "status": "completed",
            "role": "user",
            "content": [{"type": "input_audio", "transcript": None}],
        }
        for kind in ("added", "done"):
            yield self._event(f"conversation.item.{kind}", item=item, previous_item_id=before)

    def _partial(self, event: Partial, item_id: str) -> Iterator[Json]:
        place = {"item_id": item_id, "content_index": 0}
        if event.delta:
            delta = self._event(f"{TRANSCRIPTION}.delta", **place, delta=event.delta)
            if self.with_logprobs:
                scored = _logprobs(event.tokens)
                delta["logprobs"] = scored
                self._scored.setdefault(event.item, []).extend(scored)
            delta["words"] = _words(event.delta_words)
            yield delta
        before = self._tails.get(event.item, "")
        self._tails[event.item] = event.tail
        if event.tail or before:
            yield self._event(
                TAIL,
                **place,
                tail=event.tail,
                words=_words(event.tail_words),
                language=CODES.get(event.language or ""),
                audio_end_ms=self._ms(event.at_s),
            )

    def _completed(self, event: Completed, item_id: str) -> Json:
        self._tails.pop(event.item, None)
        code = CODES.get(event.language or "")
        num_input = event.num_audio_tokens + event.num_prompt_tokens
        completed = self._event(
            f"{TRANSCRIPTION}.completed",
            item_id=item_id,
            content_index=0,
            transcript=event.text,
            languages=[{"code": code}] if code else [],
            language=event.language,
            confidence=event.confidence,
            words=self._timed(event.words),
            audio_start_ms=self._ms(event.start_s),
            audio_end_ms=self._ms(event.end_s),
            usage={
                "type": "tokens",
                "input_tokens": num_input,
                "input_token_details": {
                    "audio_tokens": event.num_audio_tokens,
                    "text_tokens": event.num_prompt_tokens,
                },
                "output_tokens": event.num_completion_tokens,
                "total_tokens": num_input + event.num_completion_tokens,
            },
        )
        if self.with_logprobs:
            completed["logprobs"] = self._scored.pop(event.item, [])
        return completed

    def _timed(self, words: Sequence[Word]) -> list[Json]:
        """With times in seconds, as OpenAI's words have them, where an aligner told."""
        written = _words(words)
        for word, fields in zip(words, written, strict=True):
            if word.start_s is not None and word.end_s is not None:
                fields["start"] = round(self._offset_s + word.start_s, 3)
                fields["end"] = round(self._offset_s + word.end_s, 3)
        return written

    def _ms(self, seconds: float) -> int:
        return round((self._offset_s + seconds) * 1000)

    def _event(self, kind: str, **fields: Any) -> Json:
        return {"type": kind, "event_id": new_id("event"), **fields}


def _logprobs(tokens: Sequence[ScoredToken]) -> list[Json]:
    return [
        {
            "token": token.data.decode("utf-8", "replace"),
            "bytes": list(token.data),
            "logprob": token.logprob,
        }
        for token in tokens
    ]


def _words(words: Sequence[Word]) -> list[Json]:
    return [{"word": word.text, "confidence": round(word.confidence, 4)} for word in words]
