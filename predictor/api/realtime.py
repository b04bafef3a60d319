"""`GET /v1/realtime`: OpenAI's realtime transcription over a WebSocket, as its SDKs speak it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from predictor.api.auth import KeyRing
from predictor.api.client_secrets import ClientSecrets, key_of_websocket
from predictor.api.dataplane import AsrDataPlane
from predictor.api.errors import error_response, to_asr_error
from predictor.api.json_answer import json_answer
from predictor.api.json_body import LongText, decode_base64, load_json
from predictor.api.live_connection import (
    Ending,
    Progress,
    Resumption,
    WorkQueue,
    converse,
    monotonic_s,
)
from predictor.api.openapi import live as openapi
from predictor.api.reading import off_loop, query_of, read_small_json
from predictor.api.realtime_config import RealtimeConfig, check_model, from_legacy
from predictor.api.realtime_events import EventWriter, Json, error_detail, new_id
from predictor.api.websocket import MAX_MESSAGE_BYTES
from predictor.errors import AsrError, InvalidInput
from predictor.live.events import Completed, Event
from predictor.live.hub import LiveHub
from predictor.live.intake import Intake
from predictor.live.listener import Listener, LiveParts
from predictor.live.options import SessionConfig

MIN_COMMIT_S: Final = 0.1
EMPTY_COMMIT: Final = "input_audio_buffer_commit_empty"  # OpenAI's code
GOING_AWAY: Final = 1001
HIGH_PASS_HZ: Final = {"near_field": 80.0, "far_field": 120.0}
SUBPROTOCOL: Final = "realtime"


@dataclass(frozen=True, slots=True)
class LiveDoor:
    """What the live routes need."""

    dataplane: AsrDataPlane
    hub: LiveHub
    keys: KeyRing
    secrets: ClientSecrets
    max_session_s: float
    default_language: str | None

    async def parts(self) -> LiveParts:
        """Raises NotReady while the model is loading or the server ends."""
        model = await self.dataplane.get_model(self.dataplane.model.name)
        self.hub.check_room()
        assert model.loaded is not None
        return model.loaded.live


def realtime_router(door: LiveDoor, prefix: str) -> APIRouter:
    """The WebSocket and the client secrets under `prefix`."""
    router = APIRouter(prefix=prefix, tags=["Live"])

    async def realtime(socket: WebSocket) -> None:
        await serve_realtime(door, socket)

    async def client_secret(request: Request) -> Response:
        return json_answer(
            door.secrets.create(await read_small_json(request), door.dataplane.served_names)
        )

    async def transcription_session(request: Request) -> Response:
        names = door.dataplane.served_names
        return json_answer(door.secrets.create_session(await read_small_json(request), names))

    router.add_api_websocket_route("/realtime", realtime)
    add = router.add_api_route
    add("/realtime/client_secrets", client_secret, methods=["POST"], **openapi.CLIENT_SECRET)
    path = "/realtime/transcription_sessions"
    add(path, transcription_session, methods=["POST"], **openapi.TRANSCRIPTION_SESSION)
    return router


async def serve_realtime(door: LiveDoor, socket: WebSocket) -> None:
    """One connection. What is wrong before the upgrade is an HTTP status."""
    try:
        key, protocol = key_of_websocket(socket)
        config = door.secrets.open(door.keys, key, socket.headers)
        query = query_of(socket)
        resumed = Resumption.of(query["resume"]) if "resume" in query else Resumption()
        _check_query(query, door)
        parts = await door.parts()
        parts.prompts.check_context(config.session().context)
        place = door.hub.place()
        place.__enter__()
    except Exception as exc:  # noqa: BLE001  any error becomes a status from the table
        await socket.send_denial_response(error_response(to_asr_error(exc), openai=True))
        return
    with contextlib.ExitStack() as stack:
        stack.push(place)
        await socket.accept(subprotocol=protocol)
        connection = _Connection(door, socket, parts, config, resumed)
        await connection.run()


def _check_query(query: dict[str, str], door: LiveDoor) -> None:
    """Raises InvalidInput, NotFound."""
    if query.get("intent", "transcription") != "transcription":
        raise InvalidInput(
            "intent: only transcription is served",
            field="intent",
            value=query["intent"][:60],
            limit=["transcription"],
        )
    if "model" in query:
        check_model(query["model"], door.dataplane.served_names)


class _Connection:
    """The session behind one WebSocket."""

    def __init__(
        self,
        door: LiveDoor,
        socket: WebSocket,
        parts: LiveParts,
        config: RealtimeConfig,
        resumed: Resumption,
    ) -> None:
        self._door = door
        self._socket = socket
        self._config = config
        self._id = new_id("sess")
        self._expires_at = int(time.time() + door.max_session_s)
        self._sending = asyncio.Lock()
        self._progress = Progress(resumed)
        self._writer = EventWriter(offset_s=resumed.audio_ms / 1000, num_items=resumed.num_items)
        self._writer.with_logprobs = config.with_logprobs
        self._resumed_text = resumed.text
        self._listener = Listener(parts, self._intake(), self._session_config(), self._emit)
        self._actions: dict[str, Callable[[Json], Awaitable[None]]] = {
            "session.update": self._update,
            "transcription_session.update": self._update_legacy,
            "input_audio_buffer.commit": self._commit,
            "input_audio_buffer.clear": self._clear,
        }

    async def run(self) -> None:
        """Until the client leaves, or it is told to."""
        try:
            await self._send("session.created", session=self._session())
            ending = await converse(
                self._door.hub, self._read, self._warn, self._door.max_session_s
            )
            if ending != "left":
                await self._end(ending)
        except (WebSocketDisconnect, RuntimeError):
            return  # the client left while it was told something
        finally:
            self._listener.close()

    async def _end(self, ending: Ending) -> None:
        """The utterance in flight is finished, then the connection closed."""
        await self._listener.commit()
        done_s = self._listener.session.now_s
        await self._send(
            "session.expiring",
            reason=ending,
            expires_in_s=0,
            resume=self._progress.resumption(done_s).token(),
            audio_done_ms=self._progress.resumption(done_s).audio_ms,
        )
        if self._socket.application_state is WebSocketState.CONNECTED:
            await self._socket.close(GOING_AWAY, f"session {ending}, connect again with resume")

    async def _warn(self, ending: Ending, left_s: float) -> None:
        resumption = self._progress.resumption()
        await self._send(
            "session.expiring",
            reason=ending,
            expires_in_s=left_s,
            resume=resumption.token(),
            audio_done_ms=resumption.audio_ms,
        )

    async def _read(self, queue: WorkQueue) -> bool:
        """Messages into work, until the client leaves."""
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return False
            arrived_s = monotonic_s()
            text = message.get("text")
            data = text.encode() if text is not None else message.get("bytes") or b""
            await queue.put(partial(self._handle, data, arrived_s), len(data))

    async def _handle(self, data: bytes, arrived_s: float) -> None:
        """One client event; what is wrong with it is said and not fatal."""
        event_id: str | None = None
        try:
            event = await off_loop(len(data), lambda: _parse(data))
            event_id = event.get("event_id") if isinstance(event.get("event_id"), str) else None
            if event["type"] == "input_audio_buffer.append":
                audio = await off_loop(len(data), lambda: _audio(event))
                await self._listener.hear(audio, arrived_s)
            elif event["type"] in self._actions:
                await self._actions[event["type"]](event)
            else:
                raise InvalidInput(
                    f"type: {event['type'][:60]!r} is not served by transcription sessions",
                    field="type",
                    value=event["type"][:60],
                    limit=["input_audio_buffer.append", *self._actions],
                )
        except (WebSocketDisconnect, RuntimeError):
            raise
        except Exception as exc:  # noqa: BLE001  any error becomes an event from the table
            detail = error_detail(to_asr_error(exc), event_id)
            await self._send("error", error=detail)

    async def _update(self, event: Json) -> None:
        await self._apply(event.get("session"), "session.updated")

    async def _update_legacy(self, event: Json) -> None:
        await self._apply(from_legacy(event.get("session")), "transcription_session.updated")

    async def _apply(self, session: object, answer: str) -> None:
        config = self._config.updated(session, self._door.dataplane.served_names)
        before, self._config = self._config, config
        try:
            self._listener.session.configure(self._session_config())
        except AsrError:
            self._config = before
            raise
        if (before.wire, before.noise_reduction) != (config.wire, config.noise_reduction):
            self._listener.set_intake(self._intake())
        self._writer.with_logprobs = config.with_logprobs
        await self._send(answer, session=self._session())

    async def _commit(self, event: Json) -> None:
        session = self._listener.session
        if not session.has_item and (
            self._config.turns is not None or session.turn_s < MIN_COMMIT_S
        ):
            empty = InvalidInput(
                f"the audio buffer holds {1000 * session.turn_s:.0f} ms without speech in it; a "
                f"manual turn needs {1000 * MIN_COMMIT_S:.0f} ms",
                field="input_audio_buffer",
            )
            event_id = event.get("event_id")
            detail = error_detail(empty, event_id if isinstance(event_id, str) else None)
            await self._send("error", error={**detail, "code": EMPTY_COMMIT})
            return
        await self._listener.commit()

    async def _clear(self, _event: Json) -> None:
        await self._listener.clear()
        await self._send("input_audio_buffer.cleared")

    async def _emit(self, event: Event) -> None:
        if isinstance(event, Completed):
            self._progress.add(event.text, event.end_s)
        for written in self._writer.write(event):
            await self._send_json(written)

    async def _send(self, kind: str, **fields: Any) -> None:
        await self._send_json({"type": kind, "event_id": new_id("event"), **fields})

    async def _send_json(self, event: Json) -> None:
        async with self._sending:
            await self._socket.send_text(orjson.dumps(event).decode())

    def _session(self) -> Json:
        return {
            "id": self._id,
            "object": "realtime.transcription_session",
            "expires_at": self._expires_at,
            **self._config.render(),
        }

    def _session_config(self) -> SessionConfig:
        config = self._config.session(self._door.default_language)
        return replace(config, resumed_text=self._resumed_text)

    def _intake(self) -> Intake:
        noise = self._config.noise_reduction
        return Intake(self._config.wire, HIGH_PASS_HZ[noise] if noise else None)


def _parse(data: bytes) -> Json:
    """A client event, long strings left where they are. Raises InvalidInput."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise InvalidInput(
            f"event: {len(data)} bytes, the limit is {MAX_MESSAGE_BYTES}",
            field="event",
            value=len(data),
            limit=MAX_MESSAGE_BYTES,
        )
    event = load_json(data, what="event")
    if not isinstance(event.get("type"), str):
        raise InvalidInput(
            "event: an event is an object with a type", field="type", limit="a string"
        )
    return event


def _audio(event: Json) -> memoryview:
    audio = event.get("audio")
    if not isinstance(audio, str | LongText):
        raise InvalidInput("audio: must be base64", field="audio", limit="a string of base64")
    return decode_base64(audio, field="audio")
