"""Log lines in both formats carry the request id and the fields."""

from __future__ import annotations

import json
import logging

from predictor.logs import JsonFormatter, TextFormatter, request_id_var


def record() -> logging.LogRecord:
    made = logging.LogRecord("predictor.x", logging.INFO, "", 0, "done %d", (3,), None)
    made.fields = {"http_port": 8080}
    return made


def test_both_formats_show_id_and_fields() -> None:
    token = request_id_var.set("abc")
    try:
        line = json.loads(JsonFormatter().format(record()))
        text = TextFormatter().format(record())
    finally:
        request_id_var.reset(token)
    assert (line["message"], line["http_port"], line["request_id"]) == ("done 3", 8080, "abc")
    assert text.endswith("INFO predictor.x done 3 http_port=8080 request_id=abc")
