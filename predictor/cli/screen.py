"""The events of a live session on a terminal, in a pipe, or as they are."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any, Final, TextIO

from predictor.cli.errors import FAILED, OK

EVENT: Final = "conversation.item.input_audio_transcription"
LAST: Final = "last"  # the id of our last event; the answer to it says that all before was read
_EMPTY: Final = "input_audio_buffer_commit_empty"  # all that was said has been ended by pauses
_DIM, _PLAIN, _CLEAR = "\x1b[2m", "\x1b[0m", "\r\x1b[K"


class Screen:
    """Shows events until all that was sent is answered."""

    def __init__(self, out: TextIO | None = None, *, as_json: bool = False) -> None:
        self._out = out or sys.stdout
        self._as_json = as_json
        self._grows = self._out.isatty() and not as_json
        self._open: set[str] = set()  # items that somebody still speaks, or that are worked on
        self._said = ""
        self._num_updates = 0
        self._all_read = False
        self._code = OK
        self.resume = ""  # how to go on when the service ends the connection
        self.done_ms = 0  # of all audio, what need not be sent again

    def show(self, messages: Iterable[str | bytes]) -> int | None:
        """Until the end; an exit code, or None where the connection ended before that."""
        self._num_updates = 0
        self._open.clear()
        for message in messages:
            event: dict[str, Any] = json.loads(message)
            if self._as_json:
                self._write(json.dumps(event, ensure_ascii=False) + "\n")
            self._take(event)
            if self._all_read and not self._open:
                return self._code
        return None

    def _take(self, event: dict[str, Any]) -> None:
        kind, item = event["type"], event.get("item_id")
        if kind == "session.updated":
            self._num_updates += 1
            self._all_read = self._num_updates == 2
        elif kind in ("input_audio_buffer.speech_started", "input_audio_buffer.committed"):
            self._open.add(item or "")
        elif kind == f"{EVENT}.delta":
            self._said += event["delta"]
            self._line(self._said)
        elif kind == f"{EVENT}.tail":
            self._line(f"{self._said}{_DIM}{event.get('tail', '')}{_PLAIN}")
        elif kind == f"{EVENT}.completed":
            self._open.discard(item or "")
            self._complete(event["transcript"])
        elif kind == f"{EVENT}.failed":
            self._open.discard(item or "")
            self._fail(event["error"]["message"])
        elif kind == "session.expiring":
            self.resume, self.done_ms = event["resume"], event["audio_done_ms"]
        elif kind == "error":
            self._error(event["error"])

    def _error(self, error: dict[str, Any]) -> None:
        if error.get("event_id") == LAST:
            self._all_read = True
        elif error.get("code") != _EMPTY:
            self._fail(error["message"])

    def _fail(self, message: str) -> None:
        self._code = FAILED
        sys.stderr.write(f"qwen3-asr live: {message}\n")

    def _line(self, text: str) -> None:
        if self._grows:
            self._write(_CLEAR + text)

    def _complete(self, text: str) -> None:
        self._said = ""
        if not self._as_json and text:
            self._write((_CLEAR if self._grows else "") + text + "\n")

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()
