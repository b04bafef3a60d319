"""Settings that are valid one by one but contradict each other."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any, Final

from predictor.settings.addresses import allowed_prefix
from predictor.settings.fields import AUDIO_TOKENS_PER_S, PROMPT_TOKENS
from predictor.settings.webhook_key import webhook_key

_MODEL_NAME: Final = re.compile(
    r"(?!.{129})[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9._-]+)*"
)  # stands in URLs

_HUB_ID: Final = re.compile(r"(?!.*(--|\.\.))(?!.{97})\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
_ORIGIN: Final = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/?#\s]+")
_CHANNEL: Final = re.compile(r"[0-9]|[1-5][0-9]|6[0-3]")


_Refuse = Callable[[str, str], None]  # names of settings, and why


def contradictions(values: Mapping[str, Any], sources: Mapping[str, str]) -> list[str]:
    """One line for each contradiction, naming the settings, their values and sources."""
    found: list[str] = []

    def refuse(names: str, why: str) -> None:
        given = [f"{name}={_shown(values[name])} ({sources[name]})" for name in names.split()]
        found.append(f"{', '.join(given)}: {why}")

    _check_models(values, refuse)
    _check_doors(values, refuse)
    _check_prefixes(values, refuse)
    _check_device(values, refuse)
    if values["language_detection"] and values["language"] is not None:
        refuse("language_detection language", "a language is used only without detection")
    if not values["language_detection"] and values["language"] is None:
        refuse("language_detection", "needs a language for requests that give none")
    if values["audio_channel"] not in ("mix", "separate") and not _CHANNEL.fullmatch(
        values["audio_channel"]
    ):
        refuse("audio_channel", "must be mix, separate or a number from 0 to 63")
    needed = _tokens_needed(values)
    if needed > values["max_model_len"]:
        refuse(
            "segment_s max_tokens_per_audio_s max_context_tokens max_model_len",
            f"a piece may need {needed} tokens; raise max_model_len or lower another",
        )
    return found


def _shown(value: Any) -> Any:
    return ",".join(value) if isinstance(value, tuple) else value


def _check_models(values: Mapping[str, Any], refuse: _Refuse) -> None:
    """Where weights come from, and what they are called."""
    for kind in ("model", "aligner"):
        folder, hub_id, revision = f"{kind}_dir", f"{kind}_id", f"{kind}_revision"
        if values[folder] is not None and values[hub_id] is not None:
            refuse(f"{folder} {hub_id}", "give one of them")
        if values[revision] is not None and values[hub_id] is None:
            refuse(revision, f"is of use with {hub_id} only")
        if values[hub_id] is not None and not _HUB_ID.fullmatch(values[hub_id]):
            refuse(hub_id, f"must be OWNER/NAME as on the hub; a folder goes into {folder}")
    for setting, names in (
        ("model_name", [values["model_name"]]),
        ("model_aliases", values["model_aliases"]),
    ):
        if not all(map(_MODEL_NAME.fullmatch, names)):
            refuse(setting, "must be letters, digits, '.', '_', '-' and '/', at most 128")


def _check_doors(values: Mapping[str, Any], refuse: _Refuse) -> None:
    """Ports, TLS, keys, and whose pages may ask."""
    ports = ["http_port", "admin_port", *(["grpc_port"] if values["enable_grpc"] else [])]
    for one, other in combinations(ports, 2):
        if values[one] == values[other] and values[one]:
            refuse(f"{one} {other}", "must differ")
    if (values["tls_cert_file"] is None) != (values["tls_key_file"] is None):
        refuse("tls_cert_file tls_key_file", "give both or neither")
    if not all(map(_ORIGIN.fullmatch, values["cors_origins"])):
        refuse("cors_origins", "must be * or origins such as https://app.example.com, no paths")


def _check_prefixes(values: Mapping[str, Any], refuse: _Refuse) -> None:
    """What jobs may fetch and tell."""
    for setting in ("job_url_prefixes", "job_webhook_prefixes"):
        for text in values[setting]:
            try:
                allowed_prefix(text, allow_private=values["job_private_addresses"])
            except ValueError as error:
                refuse(setting, str(error))
    if not values["job_webhook_prefixes"]:
        return
    if not values["job_webhook_secret"]:
        refuse("job_webhook_prefixes", "needs job_webhook_secret, by which receivers know us")
        return
    try:
        webhook_key(values["job_webhook_secret"])
    except ValueError:  # the secret itself is not shown
        refuse("job_webhook_prefixes", "job_webhook_secret needs base64 behind whsec_")


def _check_device(values: Mapping[str, Any], refuse: _Refuse) -> None:
    """Engines, their devices and precisions."""
    for setting in ("precision", "aligner_precision", "kv_precision"):
        if values[setting] == "fp8" and values["device"] == "cpu":
            refuse(f"{setting} device", "8 bits of this kind are for CUDA")
    if values["kv_precision"] == "fp8" and values["precision"] == "fp32":
        refuse("kv_precision precision", "8 bits go with 16 bits or less")
    devices = values["devices"] or ()
    if any(not index.isdigit() for index in devices) or len(set(devices)) < len(devices):
        refuse("devices", "must be different whole numbers, separated by commas")
    if values["engine_process"] is False and devices not in ((), ("0",)):
        refuse("engine_process devices", "an engine on a device of its own needs its own process")
    if values["engine_process"] is False and (values["num_front_processes"] or 1) > 1:
        refuse("engine_process num_front_processes", "several fronts need an engine apart")


def _tokens_needed(values: Mapping[str, Any]) -> int:
    """Of the longest piece of a recording with the longest context and answer."""
    per_s = AUDIO_TOKENS_PER_S + float(values["max_tokens_per_audio_s"])
    piece_s = min(float(values["segment_s"]), float(values["max_audio_s"]))
    return round(piece_s * per_s) + int(values["max_context_tokens"]) + PROMPT_TOKENS
