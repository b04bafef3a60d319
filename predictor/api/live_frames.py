"""`GET /api/v1/live`: a WebSocket of plain frames, PCM in and JSON lines out.

Binary messages are audio; text messages are `{"type": "commit"}`, `"clear"`, `"end"` and
`"update"` (with `language` and `context`). See `live_json` for what comes back.
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.websockets import WebSocket, WebSocketDisconnect

from predictor.api.client_secrets import key_of_websocket
from predictor.api.errors import error_response, to_asr_error
from predictor.api.live_connection import WorkQueue, converse, monotonic_s
from predictor.api.live_json import PlainOptions, PlainSession
from predictor.api.reading import query_of
from predictor.api.realtime import GOING_AWAY, LiveDoor
from predictor.errors import InvalidInput
from predictor.text.languages import parse_language

_NORMAL = 1000
_MAX_COMMAND_CHARS = 256 * 1024


def live_router(door: LiveDoor) -> APIRouter:
    """The route."""
    router = APIRouter(prefix="/api/v1", tags=["Live"])

    async def live(socket: WebSocket) -> None:
        await serve_frames(door, socket)

    router.add_api_websocket_route("/live", live)
    return router


async def serve_frames(door: LiveDoor, socket: WebSocket) -> None:
    """One connection. What is wrong before the upgrade is an HTTP status."""
    try:
        key, protocol = key_of_websocket(socket)
        door.secrets.open(door.keys, key, socket.headers)
        options = PlainOptions.of(query_of(socket), door.default_language)
        parts = await door.parts()
        parts.prompts.check_context(options.config.context)
        place = door.hub.place()
        place.__enter__()
    except Exception as exc:  # noqa: BLE001  any error becomes a status from the table
        await socket.send_denial_response(error_response(to_asr_error(exc), openai=False))
        return
    with contextlib.ExitStack() as stack:
        stack.push(place)
        await socket.accept(subprotocol=protocol)

        async def send(line: dict[str, Any]) -> None:
            await socket.send_text(orjson.dumps(line).decode())

        session = PlainSession(parts, options, send, door.max_session_s)
        stack.callback(session.listener.close)
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # the client left
            await session.begin()
            ending = await converse(
                door.hub, partial(_read, socket, session), session.warn, door.max_session_s
            )
            if ending != "left":
                await session.end(ending)
                await socket.close(_NORMAL if ending == "done" else GOING_AWAY)


async def _read(socket: WebSocket, session: PlainSession, queue: WorkQueue) -> bool:
    """Messages into work, until the client leaves or says that it has no more."""
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return False
        data = message.get("bytes")
        if data is not None:
            work = partial(session.listener.hear, data, monotonic_s())
            await queue.put(work, len(data))
            continue
        text = message.get("text") or ""
        if _is_end(text):
            return True
        await queue.put(partial(session.attempt, partial(_obey, session, text)), len(text))


def _is_end(text: str) -> bool:
    if len(text) <= _MAX_COMMAND_CHARS:
        with contextlib.suppress(orjson.JSONDecodeError):
            command = orjson.loads(text)
            return isinstance(command, dict) and command.get("type") == "end"
    return False


async def _obey(session: PlainSession, text: str) -> None:
    """A command. Raises InvalidInput."""
    if len(text) > _MAX_COMMAND_CHARS:
        raise InvalidInput(
            f"message: a command of {len(text)} characters, the limit is {_MAX_COMMAND_CHARS}",
            field="message",
            value=len(text),
            limit=_MAX_COMMAND_CHARS,
        )
    try:
        command = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidInput("message: text messages are JSON", field="message") from error
    kind = command.get("type") if isinstance(command, dict) else None
    if kind == "commit":
        await session.commit()
    elif kind == "clear":
        await session.listener.clear()
    elif kind == "update":
        session.change(**_changes(command))
    else:
        raise InvalidInput(
            f"type: {str(kind)[:60]!r} is not one of commit, clear, update, end",
            field="type",
            value=str(kind)[:60],
            limit=["commit", "clear", "update", "end"],
        )


def _changes(command: dict[str, Any]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for name in ("language", "context"):
        value = command.get(name, "")
        if not isinstance(value, str):
            raise InvalidInput(f"{name}: must be a string", field=name, limit="a string")
        if name in command:
            changes[name] = parse_language(value) if name == "language" else value
    return changes
