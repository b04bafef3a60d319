"""Short-lived keys that a browser may hold: signed with an API key, so any replica knows them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson
from starlette.websockets import WebSocket

from predictor.api.auth import KeyRing
from predictor.api.json_numbers import whole_number
from predictor.api.realtime_config import RealtimeConfig, from_legacy
from predictor.api.realtime_events import new_id
from predictor.errors import InvalidInput, Unauthorized

PREFIX: Final = "ek_"
DEFAULT_S: Final = 600
MIN_S: Final = 10
MAX_S: Final = 7200
ANCHOR: Final = "created_at"  # what the time counts from; OpenAI's schema knows no other
_KEY_PROTOCOL: Final = "openai-insecure-api-key."  # how OpenAI's browser clients send a key
_REALTIME: Final = "realtime"

Json = dict[str, Any]


def key_of_websocket(socket: WebSocket) -> tuple[str | None, str | None]:
    """The key among the subprotocols a browser offers, and the subprotocol to answer with."""
    offered = [name.strip() for name in socket.scope.get("subprotocols", [])]
    keys = [name.removeprefix(_KEY_PROTOCOL) for name in offered if name.startswith(_KEY_PROTOCOL)]
    return (keys[0] if keys else None), (_REALTIME if _REALTIME in offered else None)


class ClientSecrets:
    """Makes and checks them with the server's keys, of which it may have none."""

    def __init__(self, keys: KeyRing) -> None:
        self._ring = keys

    @property
    def _keys(self) -> list[bytes]:
        return list(self._ring.current().values()) or [b"open"]

    def create(self, fields: Json, served_names: Sequence[str]) -> Json:
        """`POST /realtime/client_secrets`. Raises InvalidInput, NotFound."""
        for name in fields:
            if name not in ("expires_after", "session"):
                raise InvalidInput(f"{name[:60]}: unknown field", field=name[:60])
        given = fields.get("session")
        session = {"type": "transcription"} if given is None else given
        config = RealtimeConfig().updated(session, served_names)
        value, expires_at = self._sign(session, _lifetime(fields.get("expires_after")))
        return {"value": value, "expires_at": expires_at, "session": _session(config, expires_at)}

    def create_session(self, fields: Json, served_names: Sequence[str]) -> Json:
        """`POST /realtime/transcription_sessions`, the older form. Raises like `create`."""
        session = from_legacy(fields) if not {"type", "audio"} & set(fields) else fields
        config = RealtimeConfig().updated(session, served_names)
        value, expires_at = self._sign(session, DEFAULT_S)
        return {
            **_session(config, expires_at),
            "client_secret": {"value": value, "expires_at": expires_at},
        }

    def open(self, keys: KeyRing, key: str | None, headers: Mapping[str, str]) -> RealtimeConfig:
        """The configuration a session begins with. Raises Unauthorized.

        `key` is one that came otherwise than in the headers.
        """
        _, _, bearer = headers.get("authorization", "").partition(" ")
        given = key or bearer.strip()
        if given.startswith(PREFIX):
            return self._verify(given)
        keys.check({**headers, "authorization": f"Bearer {key}"} if key else headers)
        return RealtimeConfig()

    def _sign(self, session: object, lifetime_s: int) -> tuple[str, int]:
        expires_at = int(time.time()) + lifetime_s
        payload = _encode(orjson.dumps({"exp": expires_at, "session": session}))
        return f"{PREFIX}{payload}.{_encode(_mac(self._keys[0], payload))}", expires_at

    def _verify(self, secret: str) -> RealtimeConfig:
        payload, _, signature = secret.removeprefix(PREFIX).partition(".")
        try:
            given = _decode(signature)
        except (ValueError, binascii.Error) as error:
            raise Unauthorized("client secret: not valid") from error
        matches = [hmac.compare_digest(_mac(key, payload), given) for key in self._keys]
        if not any(matches):
            raise Unauthorized("client secret: not valid")
        fields = orjson.loads(_decode(payload))
        if fields["exp"] < time.time():
            raise Unauthorized("client secret: expired, ask for a new one")
        return RealtimeConfig().updated(fields["session"], _AnyName())


class _AnyName(Sequence[str]):
    """The model was checked when the secret was made."""

    def __contains__(self, _name: object) -> bool:
        return True

    def __len__(self) -> int:
        return 1

    def __getitem__(self, _index: Any) -> Any:
        return ""


def _session(config: RealtimeConfig, expires_at: int) -> Json:
    return {
        "id": new_id("sess"),
        "object": "realtime.transcription_session",
        "expires_at": expires_at,
        **config.render(),
    }


def _lifetime(given: object) -> int:
    if given is None:
        return DEFAULT_S
    if not isinstance(given, dict):
        raise InvalidInput("expires_after: must be an object", field="expires_after")
    for name in given:
        if name not in ("anchor", "seconds"):
            where = f"expires_after.{name[:60]}"
            raise InvalidInput(f"{where}: unknown field", field=where)
    anchor = given.get("anchor", ANCHOR)
    if anchor != ANCHOR:
        shown = anchor[:60] if isinstance(anchor, str) else type(anchor).__name__
        raise InvalidInput(
            f"expires_after.anchor: {shown!r} is not known, choose {ANCHOR}",
            field="expires_after.anchor",
            value=shown,
            limit=[ANCHOR],
        )
    seconds = whole_number(given.get("seconds", DEFAULT_S))
    if seconds is None or not MIN_S <= seconds <= MAX_S:
        raise InvalidInput(
            f"expires_after.seconds: must be a whole number within {MIN_S} and {MAX_S}",
            field="expires_after.seconds",
            limit=[MIN_S, MAX_S],
        )
    return seconds


def _mac(key: bytes, payload: str) -> bytes:
    return hmac.new(key, b"client secret\n" + payload.encode(), hashlib.sha256).digest()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
