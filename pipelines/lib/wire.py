"""The protocols on the wire: requests as bytes, answers as fields. No connections here."""

from __future__ import annotations

import json
import struct
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from pipelines.lib.errors import ServiceError

CONTENT_LENGTH_HEADER = "Inference-Header-Content-Length"


def encode_v2(
    audio: bytes, language: str | None, context: str, draft: str | None = None
) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a V2 request with the recording as raw bytes behind the JSON header."""
    parameters: dict[str, object] = {"binary_data_output": False}
    parameters |= {"language": language} if language else {}
    parameters |= {"context": context} if context else {}
    named = {"audio": audio} | ({"draft": draft.encode()} if draft else {})
    # A BYTES element: its length, then its bytes.
    tensors = {name: struct.pack("<I", len(data)) + data for name, data in named.items()}
    inputs = [
        {
            "name": name,
            "shape": [1],
            "datatype": "BYTES",
            "parameters": {"binary_data_size": len(tensor)},
        }
        for name, tensor in tensors.items()
    ]
    header = json.dumps({"inputs": inputs, "parameters": parameters}).encode()
    return header + b"".join(tensors.values()), {
        "Content-Type": "application/octet-stream",
        CONTENT_LENGTH_HEADER: str(len(header)),
    }


def parse_retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds of a Retry-After header, given in seconds or as a date; None when unreadable."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (when - (now or datetime.now(UTC))).total_seconds())


def error_body(response: httpx.Response) -> tuple[str, str]:
    """Code and message of an error body in the shape of any of our protocols."""
    fallback = f"http_{response.status_code}"
    try:
        body = response.json()
    except ValueError:
        return fallback, response.text[:200]
    inner = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(inner, dict):
        return str(inner.get("code") or fallback), str(inner.get("message") or inner)[:500]
    code = body.get("code") if isinstance(body, dict) else None
    return str(code or fallback), str(inner)[:500]


def from_v2(body: dict[str, Any]) -> dict[str, Any]:
    outputs = {output["name"]: output["data"][0] for output in body["outputs"]}
    details = json.loads(outputs["details"]) if "details" in outputs else {}
    return {
        "text": outputs["text"],
        "language": _language(outputs.get("language")),
        "confidence": outputs.get("confidence"),
        "duration_s": outputs.get("duration"),
        "finish_reason": details.get("finish_reason"),
        "num_repeats_removed": details.get("num_repeats_removed"),
        "segments": tuple(details.get("segments", ())),
    }


def from_openai(body: dict[str, Any]) -> dict[str, Any]:
    return {
        "text": body["text"],
        "language": _language(body.get("language")),
        "confidence": body.get("confidence"),
        "duration_s": body.get("duration"),
        "segments": tuple(body.get("segments") or ()),
    }


async def read_events(response: httpx.Response, started: float) -> dict[str, Any]:
    """Server-sent events transcript.text.delta … transcript.text.done."""
    ttft_s: float | None = None
    async for line in response.aiter_lines():
        if not line.startswith("data:") or line == "data: [DONE]":
            continue
        event = json.loads(line.removeprefix("data:"))
        if event.get("type") == "transcript.text.delta" and ttft_s is None:
            ttft_s = time.perf_counter() - started
        elif event.get("type") == "transcript.text.done":
            usage = event.get("usage") or {}
            return {"text": event["text"], "ttft_s": ttft_s, "duration_s": usage.get("seconds")}
        elif event.get("type") == "error" or "error" in event:
            inner = event.get("error") or event
            code, message = str(inner.get("code")), str(inner.get("message"))
            raise ServiceError(message, status=response.status_code, code=code)
    raise ServiceError(
        "the stream ended without transcript.text.done", status=200, code="stream_cut"
    )


def _language(value: object) -> str | None:
    """A detected language's name; services say None, "" or "None" when nobody spoke, and OpenAI's
    schema has names in lower case."""
    if not isinstance(value, str) or value.lower() in ("", "none"):
        return None
    return value[0].upper() + value[1:]
