"""`qwen3-asr live`: speech to a running service while it is spoken, text as it comes."""

from __future__ import annotations

import argparse
import base64
import json
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, Final
from urllib.parse import SplitResult

from predictor.cli.arguments import (
    API_KEY_ENV,
    api_key,
    command_parser,
    language,
    seconds,
    service_url,
    text,
)
from predictor.cli.audio import BYTES_PER_S, check_source, microphone, pcm16
from predictor.cli.errors import FAILED, CliError
from predictor.cli.screen import LAST, Screen

_PIECE_BYTES: Final = BYTES_PER_S // 10
_GOING_AWAY: Final = 1001  # "connect again"
_TAIL_S: Final = 1.0  # of silence behind a file, so that its last words are ended by a pause
_ABOUT = """\
Send a file at the speed of speech, or the microphone, to a service's /v1/realtime.

  qwen3-asr live talk.mp3 --url http://localhost:8080
  qwen3-asr live --url http://localhost:8080                 the microphone, until Ctrl-C
  arecord -t wav -f S16_LE -r 24000 - | qwen3-asr live - --url http://localhost:8080

On a terminal the line grows while somebody speaks; what may still change is in dim letters.
An API key is taken from ASR_API_KEY.
"""


def run(argv: list[str]) -> int:
    """Show what the service hears; exit code 1 when it says that something failed."""
    args = _parser().parse_args(argv)
    check_source(args.file, args.device)
    api_key()
    pieces = microphone(args.device) if args.file is None else pcm16(args.file)
    from websockets.exceptions import InvalidStatus, WebSocketException

    tape, screen, address = Tape(), Screen(as_json=args.json), _address(args.url)
    recorder = threading.Thread(
        target=_record, args=(tape, pieces, args), name="recorder", daemon=True
    )
    recorder.start()
    try:
        while (code := _converse(tape, screen, address, args)) is None:
            pass  # the service ended the connection and told how to go on
        if tape.error is not None:
            raise tape.error
        return code
    except InvalidStatus as error:
        raise CliError(f"{address}: {_refusal(error.response)}", FAILED) from error
    except (OSError, WebSocketException) as error:
        raise CliError(f"{address}: {error or type(error).__name__}", FAILED) from error


def _refusal(response: Any) -> str:
    """What the service says instead of opening a session."""
    try:
        said = json.loads(response.body)["error"]
        said = f": {said['message'] if isinstance(said, dict) else said}"
    except (ValueError, LookupError, TypeError):
        said = ""
    hint = f"; set {API_KEY_ENV} to a key of the service" if response.status_code == 401 else ""
    return f"HTTP {response.status_code}{said}{hint}"


def _converse(tape: Tape, screen: Screen, address: str, args: argparse.Namespace) -> int | None:
    """One connection, from where the one before came to; an exit code, or None: connect again."""
    from websockets.sync.client import connect

    key = api_key()
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    if screen.resume:
        address += f"&resume={screen.resume}"
        tape.forget(screen.done_ms * BYTES_PER_S // 2_000 * 2)
    with connect(address, additional_headers=headers, max_size=None) as socket:
        socket.send(json.dumps({"type": "session.update", "session": _session(args)}))
        sender = threading.Thread(target=_send_all, args=(socket, tape), name="sender", daemon=True)
        sender.start()  # ends with the connection
        code = screen.show(socket)
        if code is None and (socket.close_code != _GOING_AWAY or not screen.resume):
            why = f"{socket.close_code} {socket.close_reason or ''}".strip()
            raise CliError(f"{address}: the service ended the connection ({why})", FAILED)
    sender.join()
    return code


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("live", _ABOUT)
    add = parser.add_argument
    add("file", nargs="?", help="a recording, - for standard input (default: the microphone)")
    add("--url", type=service_url, required=True, help="the service")
    add("--model", type=text, default="qwen3-asr", help="the model's name there")
    add("--language", type=language, help="a name or code such as English or zh (default: detect)")
    add("--context", type=text, default="", help="hot words, or any text that helps")
    add("--device", help="a microphone as FFmpeg has it, FORMAT:NAME such as alsa:hw:1")
    add("--speed", type=seconds, default=1.0, help="times the speed of speech, for files")
    add("--json", action="store_true", help="print the events as they come")
    return parser


def _address(url: SplitResult) -> str:
    """Of the WebSocket."""
    scheme = {"http": "ws", "https": "wss"}[url.scheme]
    return f"{scheme}://{url.netloc}{url.path.rstrip('/')}/v1/realtime?intent=transcription"


def _session(args: argparse.Namespace) -> dict[str, Any]:
    transcription = {"model": args.model, "prompt": args.context}
    if args.language:
        transcription["language"] = args.language
    audio = {"format": {"type": "audio/pcm", "rate": 24_000}, "transcription": transcription}
    return {"type": "transcription", "audio": {"input": audio}}


class Tape:
    """What was spoken and is not done with, between whoever records and whoever sends."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._data = bytearray()
        self._first = 0  # byte of all that was spoken at which `_data` begins
        self._is_complete = False
        self.error: CliError | None = None  # that ended it

    def add(self, piece: bytes) -> None:
        """Something was spoken."""
        with self._changed:
            self._data += piece
            self._changed.notify_all()

    def end(self, error: CliError | None = None) -> None:
        """Nothing more comes."""
        with self._changed:
            self._is_complete, self.error = True, error
            self._changed.notify_all()

    def forget(self, place: int) -> None:
        """What lies before this byte is done with."""
        with self._changed:
            del self._data[: max(0, place - self._first)]
            self._first = max(self._first, place)

    def read(self, size: int) -> Iterator[bytes]:
        """All that is kept, and then what comes, until it ends; in pieces of at most `size`."""
        place = self._first
        while True:
            with self._changed:
                while not (self._has(place) or self._is_complete):
                    self._changed.wait()
                if not self._has(place):
                    return
                piece = bytes(self._data[place - self._first :][:size])
            place += len(piece)
            yield piece

    def _has(self, place: int) -> bool:
        return place < self._first + len(self._data)


def _record(tape: Tape, pieces: Iterable[bytes], args: argparse.Namespace) -> None:
    """In its own thread: pieces at the speed of speech; a microphone keeps that by itself."""
    began_s = time.monotonic()
    sent = 0
    silence = [bytes(round(_TAIL_S * BYTES_PER_S))] if args.file is not None else []
    try:
        for piece in _of_size(pieces, silence):
            if args.file is not None:
                ahead_s = sent / BYTES_PER_S / args.speed - (time.monotonic() - began_s)
                time.sleep(max(0.0, ahead_s))
            sent += len(piece)
            tape.add(piece)
    except CliError as error:
        tape.end(error)
    else:
        tape.end()


def _send_all(socket: Any, tape: Tape) -> None:
    """In its own thread, until the tape or the connection ends."""
    from websockets.exceptions import ConnectionClosed

    try:
        for piece in tape.read(_PIECE_BYTES):
            audio = base64.b64encode(piece).decode()
            socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
        socket.send(json.dumps({"type": "input_audio_buffer.commit"}))
        end = {"type": "session.update", "event_id": LAST, "session": {"type": "transcription"}}
        socket.send(json.dumps(end))
    except ConnectionClosed:  # whoever shows the events sees it too
        return


def _of_size(*sources: Iterable[bytes]) -> Iterator[bytes]:
    size = _PIECE_BYTES
    held = bytearray()
    for source in sources:
        for data in source:
            held += data
            while len(held) >= size:
                yield bytes(held[:size])
                del held[:size]
    if held:
        yield bytes(held)
