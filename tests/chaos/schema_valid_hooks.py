"""Makes valid what is meant to be, where no schema can say it: that a tensor's data fit its shape,
that a text is said in the recording, that a recording has one channel, what goes with which form,
how many tokens a text has.

For the one check that no valid request is rejected: others judge bodies as they were made.
"""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import schemathesis

from tests.chaos.schema_hooks import SAID, SPEECH, recording_of

MAX_TEXT_CHARS = 4


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: Any) -> None:
    """Makes valid what is meant to be."""
    meta = case.meta
    if meta is None or not meta.generation.mode.is_positive:
        return
    path = case.operation.path
    if "model_name" in case.path_parameters:
        case.path_parameters["model_name"] = "qwen3-asr"
    if "/infer" in path:
        _fit_tensors(case)
    elif path.endswith("/alignments") and isinstance(case.body, dict):
        case.body |= {"file": SPEECH, "text": SAID, "language": "en"}
    elif path.endswith(("/transcriptions", "/v1/jobs")) and isinstance(case.body, dict):
        _fit_format(case.body)
        if "file" not in case.body or "url" in case.body:  # one of them, and nothing is fetched
            case.body.pop("url", None)
            case.body["file"] = SPEECH
    elif path.endswith(":predict") and case.media_type == "application/json":
        case.query.clear()  # it is the form of raw bodies
    elif path.endswith("/chat/completions"):
        case.body["messages"] = _shortened(case.body["messages"])
    for fields in _hearing_fields(case):
        _fit_hearing(fields)
        for name in ("context", "prompt"):
            if name in fields:
                fields[name] = _shortened(fields[name])


def _shortened(value: Any) -> Any:
    """Texts below the limit of tokens; a character may have four."""
    if isinstance(value, dict):
        return {name: v if name == "data" else _shortened(v) for name, v in value.items()}
    if isinstance(value, list):
        return [_shortened(each) for each in value]
    is_text = isinstance(value, str) and not value.startswith("data:")
    return value[:MAX_TEXT_CHARS] if is_text else value


def _hearing_fields(case: Any) -> list[dict[str, Any]]:
    """Where a request may say which channel to hear."""
    body = case.body if isinstance(case.body, dict) else {}
    found = [case.query, body, body.get("parameters"), *body.get("instances", ())]
    return [fields for fields in found if isinstance(fields, dict)]


def _fit_hearing(fields: dict[str, Any]) -> None:
    """One channel, one track, and a server of 30 s a piece and without an aligner."""
    for name, most in (("channel", ("mix", "separate", "")), ("track", ("",))):
        if name in fields and fields[name] not in most:
            fields[name] = "0"
    if "segment_s" in fields and fields["segment_s"] != "":
        fields["segment_s"] = 20  # below the server's own
    if "words" in fields:
        fields["words"] = False if fields["words"] in (True, False) else "false"
    for name in ("timestamp_granularities[]", "timestamp_granularities"):
        if name in fields:
            fields[name] = ["segment"] * min(1, len(fields[name]))


def _fit_format(fields: dict[str, Any]) -> None:
    """What goes with some forms of the answer only."""
    chosen = fields.get("response_format", "json")
    if fields.get("cue_min_s"):
        fields["cue_min_s"] = 1  # not above the longest
    if chosen not in ("json", "text"):
        fields.pop("stream", None)
    if chosen != "json":
        fields.pop("include[]", None)
    if chosen != "verbose_json":
        fields.pop("timestamp_granularities[]", None)


def _fit_tensors(case: Any) -> None:
    recording = recording_of(1600)
    tensor: dict[str, Any] = {"name": "audio", "datatype": "BYTES", "shape": [1]}
    if case.media_type == "application/json":
        case.headers.pop("Inference-Header-Content-Length", None)
        case.body.get("parameters", {}).pop("sample_rate", None)  # it goes with waveforms
        case.body["inputs"] = [{**tensor, "data": [base64.b64encode(recording).decode()]}]
        return
    raw = struct.pack("<I", len(recording)) + recording
    tensor["parameters"] = {"binary_data_size": len(raw)}
    head = json.dumps({"inputs": [tensor]}).encode()
    case.headers["Inference-Header-Content-Length"] = str(len(head))
    case.body = head + raw
