"""What one WebSocket may do: uvicorn's protocol, with its frames read a few at a time.

A read of the socket may hold tens of thousands of frames, and uvicorn takes all of them in at once,
answers pings whether or not anybody reads the answers, and counts nothing of a message that is not
whole.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final, cast

import orjson
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame
from websockets.http11 import Request

from predictor.api.errors import error_body
from predictor.api.held_bytes import HeldBytes
from predictor.errors import InvalidInput, Overloaded

MAX_MESSAGE_BYTES: Final = (15 << 20) + 1024  # OpenAI's limit of an event, and its other fields
_TURN_BYTES: Final = 4096  # read in one turn of the loop: 680 frames without data
_MAX_FRAGMENTS: Final = 4096  # of one message; empty ones cost memory too
_MIN_COUNTED_BYTES: Final = 64 * 1024  # less is not worth it
_BAD_REQUEST: Final = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
    b"sec-websocket-version: 13\r\nconnection: close\r\n\r\n"
)


class GuardedWebSocket(WebSocketsSansIOProtocol):
    """One connection. `held` counts its messages, from their first byte until the application asks
    for the next one."""

    def __init__(self, held: HeldBytes, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._held = held
        self._num_held = 0
        self._unread = bytearray()
        self._is_turn_due = False
        self._is_unheard = False  # what we write is not read
        self._queued: deque[int] = deque()  # sizes of whole messages that nobody has taken
        self._num_taken = 0  # bytes of the message that the application works on

    def connection_lost(self, exc: Exception | None) -> None:
        self._unread.clear()
        self._held.add(-self._num_held)
        self._num_held = 0
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._unread or len(data) > _TURN_BYTES or self._is_turn_due or not self._may_read():
            self._unread += data
            if self._is_unanswered:
                self.transport.pause_reading()
            self._read_on()
        else:  # a message of live audio, as most are
            self._take(data)
            self._go_on()

    def _take(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            self._refuse_handshake()
        else:
            self._count()

    def handle_connect(self, event: Request) -> None:
        """uvicorn would answer a bad handshake in a form of its own."""
        self.conn.accept(event)
        if self.conn.handshake_exc is None:
            super().handle_connect(event)

    def _refuse_handshake(self) -> None:
        """What websockets does not take, or cannot read, as too many headers: uvicorn would never
        answer that."""
        if not self.transport.is_closing():
            said = str(self.conn.handshake_exc)[:200]
            error = InvalidInput(f"upgrade: no handshake of WebSocket: {said}")
            body = orjson.dumps(error_body(error, openai=False))
            self.transport.write(_BAD_REQUEST % len(body) + body)
            self.transport.close()

    def _read_on(self) -> None:
        """Read a few frames; the rest waits for another turn, or until somebody takes them."""
        if self._is_turn_due:
            return
        if self._unread and self._may_read():
            part = bytes(self._unread[:_TURN_BYTES])
            del self._unread[:_TURN_BYTES]
            self._take(part)
        self._go_on()

    def _go_on(self) -> None:
        """Another turn for what is there, or more from the socket."""
        if self._is_turn_due or not self._may_read():
            return
        if self._unread:
            self._is_turn_due = True
            self.transport.pause_reading()
            self.loop.call_soon(self._take_turn)
        else:
            self.transport.resume_reading()

    def _take_turn(self) -> None:
        self._is_turn_due = False
        self._read_on()

    @property
    def _is_unanswered(self) -> bool:
        """Whether the handshake is; frames before its answer fit into no state of websockets."""
        return self.handshake_initiated and not self.handshake_complete

    def _may_read(self) -> bool:
        is_over = self.disconnected or self.transport.is_closing()
        return not (is_over or self._is_unanswered or self.read_paused or self._is_unheard)

    async def receive(self) -> Any:
        self._num_taken = 0
        self._count()
        message = await super().receive()
        if message["type"] == "websocket.receive":
            self._num_taken = self._queued.popleft()
        if self._unread and not self.transport.is_closing():
            self.transport.pause_reading()  # which uvicorn has just begun anew
            self._go_on()
        return message

    async def send(self, message: Any) -> None:
        was_unanswered = self._is_unanswered
        await super().send(message)
        if was_unanswered and message["type"] == "websocket.accept":
            self._go_on()
        if message["type"] == "websocket.http.response.body" and self.close_sent:
            self.handshake_complete = True  # or uvicorn logs a refusal as a fault of ours

    def send_receive_event_to_app(self) -> None:
        """A message is whole. uvicorn logs text that is no UTF-8 as an error of ours."""
        data = self.frames[0] if len(self.frames) == 1 else b"".join(self.frames)
        self.frames = []
        if self.close_sent:
            return
        try:
            is_text = self.curr_msg_data_type == "text"
            content: dict[str, Any] = {"text": data.decode()} if is_text else {"bytes": data}
        except UnicodeDecodeError as error:
            where = f"{error.reason} at position {error.start}"
            self._refuse(CloseCode.INVALID_DATA, f"text: not UTF-8, {where}")
            return
        self.queue.put_nowait(cast(Any, {"type": "websocket.receive", **content}))
        self._queued.append(len(data))
        if not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) >= _MAX_FRAGMENTS:
            self._refuse(CloseCode.MESSAGE_TOO_BIG, f"more than {_MAX_FRAGMENTS} fragments")
        else:
            super().handle_cont(event)

    def pause_writing(self) -> None:
        """Nothing more is read of who does not read."""
        super().pause_writing()
        self._is_unheard = True
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._is_unheard = False
        self._go_on()

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self._end()

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        super().on_task_complete(task)
        self._end()

    def _end(self) -> None:
        """A client that takes nothing does not keep the connection."""
        self.loop.call_later(self.close_timeout, self.transport.abort)

    def _count(self) -> None:
        """What is in memory now, among all bodies. Closes when there is no room for it."""
        size = len(self.conn.reader.buffer) + self._num_taken
        size += sum(map(len, self.frames)) + sum(self._queued)
        if size < _MIN_COUNTED_BYTES:
            if not self._num_held:
                return
            size = 0
        try:
            if size > self._num_held:
                self._held.check(size, own=self._num_held)
        except Overloaded as error:
            self._refuse(CloseCode.TRY_AGAIN_LATER, error.message)
            return
        self._held.add(size - self._num_held)
        self._num_held = size

    def _refuse(self, code: CloseCode, reason: str) -> None:
        self._unread.clear()
        if not self.close_sent and not self.transport.is_closing():
            self.conn.fail(code, reason[:120])
            self.handle_parser_exception()
