"""OpenAI's realtime transcription session: its configuration read strictly, and shown again.

What this server cannot do is refused with the field's name; nothing is accepted and ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from predictor.api.json_numbers import whole_number
from predictor.errors import InvalidInput, NotFound
from predictor.live.intake import WireFormat
from predictor.live.options import SessionConfig, TurnDetection
from predictor.text.languages import CODES, parse_language

LOGPROBS: Final = "item.input_audio_transcription.logprobs"
FORMATS: Final = {"audio/pcm": "pcm16", "audio/pcmu": "pcmu", "audio/pcma": "pcma"}
LEGACY_FORMATS: Final = {
    "pcm16": "audio/pcm",
    "g711_ulaw": "audio/pcmu",
    "g711_alaw": "audio/pcma",
}
# delay -> seconds between two steps, seconds over which hypotheses must agree
DELAYS: Final = {
    "minimal": (0.25, 0.5),
    "low": (0.5, 0.5),
    "medium": (1.0, 1.0),
    "high": (2.0, 2.0),
    "xhigh": (4.0, 4.0),
}
MAX_KEYWORDS: Final = 100
# Of turn detection, for answers that nobody gives here.
UNUSABLE: Final = ("create_response", "interrupt_response", "idle_timeout_ms")

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RealtimeConfig:
    """What `session.update` may change."""

    wire: WireFormat = field(default_factory=WireFormat)
    model: str | None = None
    language: str | None = None  # canonical name
    prompt: str = ""
    keywords: tuple[str, ...] = ()
    delay: str = "low"
    # None = manual turns
    turns: TurnDetection | None = field(default_factory=TurnDetection)
    noise_reduction: str | None = None
    with_logprobs: bool = False
    final_redecode: bool = False  # our own field

    def session(self, default_language: str | None = None) -> SessionConfig:
        """As the session's algorithm takes it."""
        step_s, agreement_s = DELAYS[self.delay]
        words = ", ".join(self.keywords)
        return SessionConfig(
            language=self.language or default_language,
            context="\n".join(part for part in (self.prompt, words) if part),
            turns=self.turns or TurnDetection(),
            is_manual=self.turns is None,
            step_s=step_s,
            agreement_s=agreement_s,
            final_redecode=self.final_redecode,
        )

    def render(self) -> dict[str, Any]:
        """The session's fields as OpenAI writes them."""
        kind = {ours: theirs for theirs, ours in FORMATS.items()}[self.wire.encoding]
        wire: dict[str, Any] = {"type": kind}
        if self.wire.encoding == "pcm16":
            wire["rate"] = self.wire.sample_rate_hz
        turns = self.turns and {
            "type": "server_vad",
            "threshold": self.turns.threshold,
            "prefix_padding_ms": round(self.turns.lead_in_s * 1000),
            "silence_duration_ms": round(self.turns.pause_s * 1000),
        }
        noise = self.noise_reduction and {"type": self.noise_reduction}
        return {
            "type": "transcription",
            "audio": {
                "input": {
                    "format": wire,
                    "transcription": {
                        "model": self.model,
                        "language": CODES[self.language] if self.language else None,
                        "prompt": self.prompt,
                        "keywords": list(self.keywords),
                        "delay": self.delay,
                    },
                    "noise_reduction": noise,
                    "turn_detection": turns,
                }
            },
            "include": [LOGPROBS] if self.with_logprobs else None,
            "final_redecode": self.final_redecode,
        }

    def updated(self, session: object, served_names: Sequence[str]) -> RealtimeConfig:
        """With the fields of a `session` object; those left out stay. Raises InvalidInput."""
        fields = _object("session", session)
        _known("session", fields, ("type", "audio", "include", "final_redecode", "id", "object",
                                   "expires_at"))  # fmt: skip
        if fields.get("type", "transcription") != "transcription":
            raise _bad("session.type", fields["type"], ["transcription"])
        config = self
        if fields.get("include") is not None:
            config = replace(config, with_logprobs=_include(fields["include"]))
        if "final_redecode" in fields:
            redecode = _boolean("session.final_redecode", fields["final_redecode"])
            config = replace(config, final_redecode=redecode)
        audio = _object("session.audio", _given(fields, "audio"))
        _known("session.audio", audio, ("input",))
        return config._with_input(_given(audio, "input"), served_names)

    def _with_input(self, given: object, served_names: Sequence[str]) -> RealtimeConfig:
        name = "session.audio.input"
        fields = _object(name, given)
        _known(name, fields, ("format", "transcription", "turn_detection", "noise_reduction"))
        config = self
        if fields.get("format") is not None:
            config = replace(config, wire=_wire(f"{name}.format", fields["format"]))
        if "noise_reduction" in fields:
            noise = _noise(f"{name}.noise_reduction", fields["noise_reduction"])
            config = replace(config, noise_reduction=noise)
        if "turn_detection" in fields:
            turns = _turns(f"{name}.turn_detection", fields["turn_detection"], config.turns)
            config = replace(config, turns=turns)
        if fields.get("transcription") is not None:
            given = _object(f"{name}.transcription", fields["transcription"])
            config = config._with_transcription(f"{name}.transcription", given, served_names)
        return config

    def _with_transcription(
        self, name: str, fields: Json, served_names: Sequence[str]
    ) -> RealtimeConfig:
        _known(name, fields, ("model", "language", "languages", "prompt", "keywords", "delay"))
        config = self
        if fields.get("model") is not None:
            model = _text(f"{name}.model", fields["model"])
            check_model(model, served_names)
            config = replace(config, model=model)
        if "language" in fields or "languages" in fields:
            config = replace(config, language=_language(name, fields))
        if "prompt" in fields:
            prompt = "" if fields["prompt"] is None else fields["prompt"]
            config = replace(config, prompt=_text(f"{name}.prompt", prompt))
        if "keywords" in fields:
            config = replace(config, keywords=_keywords(f"{name}.keywords", fields["keywords"]))
        if fields.get("delay") is not None:
            delay = _text(f"{name}.delay", fields["delay"])
            if delay not in DELAYS:
                raise _bad(f"{name}.delay", delay, list(DELAYS))
            config = replace(config, delay=delay)
        return config


def from_legacy(session: object) -> dict[str, Any]:
    """A `transcription_session.update` of the beta API as a session of today's."""
    fields = _object("session", session)
    names = ("input_audio_format", "input_audio_transcription", "input_audio_noise_reduction",
             "turn_detection", "include", "modalities", "client_secret")  # fmt: skip
    _known("session", fields, names)
    given: dict[str, Any] = {}
    if (wire := fields.get("input_audio_format")) is not None:
        if not isinstance(wire, str) or wire not in LEGACY_FORMATS:
            raise _bad("session.input_audio_format", wire, list(LEGACY_FORMATS))
        given["format"] = {"type": LEGACY_FORMATS[wire]}
    for theirs, ours in (
        ("input_audio_transcription", "transcription"),
        ("input_audio_noise_reduction", "noise_reduction"),
        ("turn_detection", "turn_detection"),
    ):
        if theirs in fields:
            given[ours] = fields[theirs]
    return {"type": "transcription", "audio": {"input": given}, "include": fields.get("include")}


def check_model(given: str, served_names: Sequence[str]) -> None:
    """Raises NotFound for a model that is not served here."""
    if given not in served_names:
        raise NotFound(f"model: {given[:60]!r} is not served here, {served_names[0]!r} is")


def _wire(name: str, given: object) -> WireFormat:
    fields = _object(name, given)
    _known(name, fields, ("type", "rate"))
    kind = fields.get("type", "audio/pcm")
    if not isinstance(kind, str) or kind not in FORMATS:
        raise _bad(f"{name}.type", kind, list(FORMATS))
    if FORMATS[kind] == "pcmu":
        return WireFormat("pcmu", 8_000)
    if FORMATS[kind] == "pcma":
        return WireFormat("pcma", 8_000)
    given_rate = fields.get("rate")
    rate = whole_number(given_rate)
    if given_rate is not None and rate is None:
        raise _bad(f"{name}.rate", given_rate, "a whole number of Hz")
    return WireFormat("pcm16", 24_000 if rate is None else rate)


def _turns(name: str, given: object, before: TurnDetection | None) -> TurnDetection | None:
    if given is None:
        return None
    fields = _object(name, given)
    allowed = ("type", "threshold", "prefix_padding_ms", "silence_duration_ms", *UNUSABLE)
    _known(name, fields, allowed)
    if fields.get("type", "server_vad") != "server_vad":
        raise _bad(f"{name}.type", fields["type"], ["server_vad", None])
    for unusable in UNUSABLE:
        if fields.get(unusable) is not None and fields[unusable] is not False:
            raise _bad(f"{name}.{unusable}", fields[unusable], "left out: sessions only transcribe")
    turns = before or TurnDetection()
    return TurnDetection(
        threshold=_number(f"{name}.threshold", fields.get("threshold"), turns.threshold),
        lead_in_s=_number(
            f"{name}.prefix_padding_ms", fields.get("prefix_padding_ms"), turns.lead_in_s * 1000
        )
        / 1000,
        pause_s=_number(
            f"{name}.silence_duration_ms", fields.get("silence_duration_ms"), turns.pause_s * 1000
        )
        / 1000,
    )


def _noise(name: str, given: object) -> str | None:
    if given is None:
        return None
    fields = _object(name, given)
    _known(name, fields, ("type",))
    kind = fields.get("type")
    if kind not in ("near_field", "far_field"):
        raise _bad(f"{name}.type", kind, ["near_field", "far_field"])
    return str(kind)


def _language(name: str, fields: Json) -> str | None:
    several = fields.get("languages")
    if several is not None:
        if not isinstance(several, list) or len(several) > 1:
            raise _bad(f"{name}.languages", several, "one language, or none to detect it")
        if several:
            return parse_language(_text(f"{name}.languages", several[0]), field=f"{name}.languages")
    given = fields.get("language")
    if given is None:
        return None
    return parse_language(_text(f"{name}.language", given), field=f"{name}.language")


def _keywords(name: str, given: object) -> tuple[str, ...]:
    if given is None:
        return ()
    if not isinstance(given, list) or len(given) > MAX_KEYWORDS:
        raise _bad(name, given, f"a list of at most {MAX_KEYWORDS} words or phrases")
    return tuple(_text(name, word) for word in given)


def _include(given: object) -> bool:
    if not isinstance(given, list) or any(name != LOGPROBS for name in given):
        raise _bad("session.include", given, [LOGPROBS])
    return bool(given)


def _object(name: str, given: object) -> Json:
    if not isinstance(given, dict):
        raise _bad(name, given, "an object")
    return given


def _given(fields: Json, name: str) -> object:
    """The field, {} for one that is null or left out."""
    return {} if fields.get(name) is None else fields[name]


def _known(name: str, fields: Json, allowed: Sequence[str]) -> None:
    for given in fields:
        if given not in allowed:
            raise InvalidInput(
                f"{name}.{given[:60]}: unknown field, the known ones are {', '.join(allowed)}",
                field=f"{name}.{given[:60]}",
                limit=list(allowed),
            )


def _text(name: str, given: object) -> str:
    if not isinstance(given, str):
        raise _bad(name, given, "a string")
    return given


def _boolean(name: str, given: object) -> bool:
    if not isinstance(given, bool):
        raise _bad(name, given, "true or false")
    return given


def _number(name: str, given: object, default: float) -> float:
    if given is None:
        return default
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise _bad(name, given, "a number")
    return float(given)


def _bad(name: str, value: object, limit: object) -> InvalidInput:
    shown = str(value)[:60]
    choices = ", ".join(map(str, limit)) if isinstance(limit, list) else str(limit)
    return InvalidInput(
        f"{name}: {shown!r} is not accepted, expected: {choices}",
        field=name,
        value=shown,
        limit=limit,
    )
