"""Log lines in both formats carry the request id and the fields."""

from __future__ import annotations

import io
import json
import logging
import signal
import sys

import pytest

from predictor.logs import (
    JsonFormatter,
    LineBudget,
    RepeatLimit,
    TextFormatter,
    configure_logging,
    note,
    noting,
    request_id_var,
)


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


def test_a_terminal_gets_text_and_a_pipe_json(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    root = logging.getLogger()
    before = root.handlers[:], root.level, signal.getsignal(signal.SIGUSR1)
    try:
        for stream, kind in ((Terminal(), TextFormatter), (io.StringIO(), JsonFormatter)):
            monkeypatch.setattr(sys, "stderr", stream)
            configure_logging("auto", "info")
            assert isinstance(root.handlers[0].formatter, kind)
    finally:
        root.handlers[:], _ = before[0], root.setLevel(before[1])
        signal.signal(signal.SIGUSR1, before[2])


def test_repeats_are_limited_and_counted() -> None:
    now_s = 0.0
    limit = RepeatLimit(clock=lambda: now_s)

    def warn(name: str = "a") -> logging.LogRecord:
        return logging.LogRecord(name, logging.WARNING, "", 0, "no room for %d", (1,), None)

    assert sum(limit.filter(warn()) for _ in range(50)) == 20
    assert limit.filter(warn("b"))
    assert all(limit.filter(record()) for _ in range(50))  # a request's lines are not repeats
    now_s = 61.0
    later = warn()
    assert limit.filter(later)
    assert later.__dict__["fields"] == {"repeats_left_out": 30}


def test_a_flood_of_refusals_is_no_flood_of_lines() -> None:
    now_s = 0.0
    budget = LineBudget(20, clock=lambda: now_s)
    taken = [budget.take() for _ in range(50)]
    assert taken == [{}] * 20 + [None] * 30
    now_s = 1.5
    assert [budget.take(), budget.take()] == [{"refusals_left_out": 30}, {}]


def test_notes_go_to_the_request_they_belong_to() -> None:
    note(lost=True)  # belongs to none
    with noting() as outer:
        note(language="English")
        with noting() as inner:
            note(audio_s=1.0)
    assert (outer, inner) == ({"language": "English"}, {"audio_s": 1.0})
