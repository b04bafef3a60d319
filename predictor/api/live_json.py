"""Live events as plain JSON lines: what the WebSocket of plain frames and the gRPC stream say.

| type | fields |
| --- | --- |
| ready | session, expires_in_s |
| speech_started, speech_stopped | item, at_s |
| partial | item, delta, tail, words, tail_words, language, at_s |
| completed | item, text, language, confidence, words, start_s, end_s |
| failed | item, error, code |
| error | error, code, field: something sent was wrong; the session goes on |
| expiring | reason, expires_in_s, resume, audio_done_s |

A word has text and confidence, and in `completed` start_s and end_s where an aligner is loaded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from predictor.api.errors import error_body, to_asr_error
from predictor.api.live_connection import Ending, Progress, Resumption
from predictor.api.realtime_config import DELAYS
from predictor.api.realtime_events import new_id
from predictor.errors import AsrError, InvalidInput
from predictor.live.events import (
    Committed,
    Completed,
    Event,
    Failed,
    Partial,
    SpeechStarted,
    SpeechStopped,
    Word,
)
from predictor.live.intake import Intake, WireFormat
from predictor.live.listener import Listener, LiveParts
from predictor.live.options import SessionConfig
from predictor.text.languages import parse_language

Json = dict[str, Any]
OPTIONS: Final = (
    "rate", "encoding", "language", "context", "delay", "turns", "final_redecode", "resume",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PlainOptions:
    """What a client says when it connects."""

    wire: WireFormat
    config: SessionConfig
    resumed: Resumption

    @classmethod
    def of(cls, given: Mapping[str, str], default_language: str | None) -> PlainOptions:
        """From a query's names and values. Raises InvalidInput."""
        for name in given:
            if name not in OPTIONS:
                raise InvalidInput(
                    f"{name[:60]}: unknown, the known ones are {', '.join(OPTIONS)}",
                    field=name[:60],
                    limit=list(OPTIONS),
                )
        resumed = Resumption.of(given["resume"]) if "resume" in given else Resumption()
        step_s, agreement_s = DELAYS[_choice(given, "delay", "low", list(DELAYS))]
        config = SessionConfig(
            language=parse_language(given.get("language")) or default_language,
            context=given.get("context", ""),
            is_manual=_choice(given, "turns", "auto", ["auto", "manual"]) == "manual",
            step_s=step_s,
            agreement_s=agreement_s,
            final_redecode=_choice(given, "final_redecode", "false", ["true", "false"]) == "true",
            resumed_text=resumed.text,
        )
        rate = given.get("rate", "16000")
        if not rate.isascii() or not rate.isdigit() or len(rate) > 7:
            raise InvalidInput(
                f"rate: {rate[:20]!r} is no whole number", field="rate", value=rate[:20]
            )
        wire = WireFormat(_encoding(given.get("encoding", "pcm16")), int(rate))
        return cls(wire, config, resumed)


def _encoding(name: str) -> Any:
    return name  # WireFormat refuses what it does not know


def _choice(given: Mapping[str, str], name: str, default: str, choices: list[str]) -> str:
    value = given.get(name, default)
    if value not in choices:
        raise InvalidInput(
            f"{name}: {value[:60]!r} is not one of {', '.join(choices)}",
            field=name,
            value=value[:60],
            limit=choices,
        )
    return value


class PlainSession:
    """One session whose client is sent JSON objects."""

    def __init__(
        self,
        parts: LiveParts,
        options: PlainOptions,
        send: Callable[[Json], Awaitable[None]],
        max_session_s: float,
    ) -> None:
        """Raises InvalidInput for a context that is too long."""
        self._options = options
        self._send_json = send
        self._sending = asyncio.Lock()
        self._progress = Progress(options.resumed)
        self._offset_s = options.resumed.audio_ms / 1000
        self._max_session_s = max_session_s
        self.listener = Listener(parts, Intake(options.wire), options.config, self._emit)

    async def begin(self) -> None:
        """Say that it is ready."""
        await self.send("ready", session=new_id("sess"), expires_in_s=self._max_session_s)

    async def warn(self, ending: Ending, left_s: float) -> None:
        """Say that the session ends soon, and how to go on."""
        await self._say_expiring(ending, left_s, self._progress.resumption())

    async def end(self, ending: Ending) -> None:
        """Finish the utterance in flight; unless the client asked for it, say how to go on."""
        await self.listener.commit()
        if ending != "done":
            done_s = self.listener.session.now_s
            await self._say_expiring(ending, 0.0, self._progress.resumption(done_s))

    async def attempt(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do what a client asked; an error of its own is told and not fatal."""
        try:
            await work()
        except AsrError as error:
            await self.send("error", **error_body(error, openai=False))

    async def commit(self) -> None:
        """End the item that runs."""
        await self.listener.commit()

    def change(self, **fields: Any) -> None:
        """Change options of the session from the next utterance on. Raises InvalidInput."""
        self.listener.session.configure(replace(self.listener.session.config, **fields))

    async def send(self, kind: str, **fields: Any) -> None:
        """One JSON object."""
        async with self._sending:
            await self._send_json({"type": kind, **fields})

    async def _say_expiring(self, ending: Ending, left_s: float, resumption: Resumption) -> None:
        await self.send(
            "expiring",
            reason=ending,
            expires_in_s=left_s,
            resume=resumption.token(),
            audio_done_s=resumption.audio_ms / 1000,
        )

    async def _emit(self, event: Event) -> None:
        if isinstance(event, Completed):
            self._progress.add(event.text, event.end_s)
        if (line := self._line(event)) is not None:
            kind, fields = line
            item = self._options.resumed.num_items + event.item
            await self.send(kind, item=item, **fields)

    def _line(self, event: Event) -> tuple[str, Json] | None:
        at = self._offset_s
        if isinstance(event, SpeechStarted):
            return "speech_started", {"at_s": at + event.at_s}
        if isinstance(event, SpeechStopped):
            return "speech_stopped", {"at_s": at + event.at_s}
        if isinstance(event, Partial):
            return "partial", {
                "delta": event.delta,
                "tail": event.tail,
                "words": _words(event.delta_words),
                "tail_words": _words(event.tail_words),
                "language": event.language,
                "at_s": at + event.at_s,
            }
        if isinstance(event, Completed):
            return "completed", {
                "text": event.text,
                "language": event.language,
                "confidence": event.confidence,
                "words": _words(event.words, at),
                "start_s": at + event.start_s,
                "end_s": at + event.end_s,
            }
        if isinstance(event, Failed):
            body = error_body(to_asr_error(event.error), openai=False)
            return "failed", body
        assert isinstance(event, Committed)
        return None


def _words(words: tuple[Word, ...], offset_s: float = 0.0) -> list[Json]:
    written: list[Json] = []
    for word in words:
        written.append({"text": word.text, "confidence": word.confidence})
        if word.start_s is not None and word.end_s is not None:
            times = {"start_s": word.start_s, "end_s": word.end_s}
            written[-1] |= {name: round(offset_s + at_s, 3) for name, at_s in times.items()}
    return written
