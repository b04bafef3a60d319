"""Schedules by robfig/cron's rules: its own table of cases, and its answers to made-up ones."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipelines.cron import next_times, read_cron
from pipelines.lib.errors import OptionError


def first_after(spec: str, after: str) -> str:
    at = datetime.strptime(after, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    return next_times(read_cron(spec), 1, at)[0].removesuffix(" UTC")


@pytest.mark.parametrize(
    ("spec", "after", "wanted"),
    [  # from robfig/cron's spec_test.go, in six fields
        ("0 0/15 * * * *", "2012-07-09 14:45:00", "2012-07-09 15:00:00"),
        ("0 0/15 * * * *", "2012-07-09 14:59:59", "2012-07-09 15:00:00"),
        ("0 20-35/15 * * * *", "2012-07-09 15:45:00", "2012-07-09 16:20:00"),
        ("15/35 20-35/15 * * * *", "2012-07-09 23:35:51", "2012-07-10 00:20:15"),
        ("15/35 20-35/15 1/2 * * *", "2012-07-09 23:35:51", "2012-07-10 01:20:15"),
        ("15/35 20-35/15 10-12 * * *", "2012-07-09 23:35:51", "2012-07-10 10:20:15"),
        ("15/35 20-35/15 1/2 */2 * *", "2012-07-09 23:35:51", "2012-07-11 01:20:15"),
        ("15/35 20-35/15 * 9-20 * *", "2012-07-09 23:35:51", "2012-07-10 00:20:15"),
        ("15/35 20-35/15 * 9-20 Jul *", "2012-07-09 23:35:51", "2012-07-10 00:20:15"),
        ("0 0 0 9 Apr-Oct ?", "2012-07-09 23:35:00", "2012-08-09 00:00:00"),
        ("0 0 0 */5 Apr,Aug,Oct Mon", "2012-07-09 23:35:00", "2012-08-06 00:00:00"),
        ("0 0 0 */5 Oct Mon", "2012-07-09 23:35:00", "2012-10-01 00:00:00"),
        ("0 0 0 * Feb Mon", "2012-07-09 23:35:00", "2013-02-04 00:00:00"),
        ("0 0 0 * Feb Mon/2", "2012-07-09 23:35:00", "2013-02-01 00:00:00"),
        ("0 0 0 31 Dec *", "2012-07-09 23:35:45", "2012-12-31 00:00:00"),
        ("0 0 0 29 Feb ?", "2012-07-09 23:35:00", "2016-02-29 00:00:00"),
        # a day and a weekday: either; with a star: both
        ("0 0 0 13 * Fri", "2026-11-01 00:00:00", "2026-11-06 00:00:00"),
        ("0 0 0 * * Fri", "2026-11-01 00:00:00", "2026-11-06 00:00:00"),
        # from its answers: to the end of the fifth year to come
        ("14 43 4 17 11 */30", "2025-02-22 22:52:17", "2030-11-17 04:43:14"),
    ],
)
def test_the_next_time(spec: str, after: str, wanted: str) -> None:
    assert first_after(spec, after) == wanted


def test_made_up_schedules_against_the_parser_of_kubeflows_controller() -> None:
    """robfig/cron 1.2.0 itself was asked: `tests/pipelines/cron_oracle`."""
    recorded = json.loads((Path(__file__).parent / "results" / "cron.json").read_text())
    five, *answers = recorded["answers"]
    # Untranslated, three in the morning is every hour: the parser takes 0 for the second.
    assert (five["spec"], five["next"][1]) == ("0 3 * * *", "2026-11-30T03:03:00Z")
    refused, known = 0, 0
    for answer in answers:
        wanted = answer["next"]
        try:
            after = datetime.fromisoformat(answer["after"])
            times = itertools.islice(read_cron(answer["spec"]).next(after), 3)
            found = [f"{at:%Y-%m-%dT%H:%M:%SZ}" for at in times]
        except OptionError:
            found = None
        assert found == wanted, answer["spec"]
        refused, known = refused + (found is None), known + (found is not None)
    assert refused >= 20
    assert known >= 150


def test_five_fields_are_what_cron_means_by_them() -> None:
    schedule = read_cron("0 3 * * *")
    assert schedule.text == "0 0 3 * * *"
    after = datetime(2026, 11, 30, 2, 0, tzinfo=UTC)
    assert next_times(schedule, 3, after) == [
        "2026-11-30 03:00:00 UTC",
        "2026-12-01 03:00:00 UTC",
        "2026-12-02 03:00:00 UTC",
    ]
    assert read_cron("30 0 3 * * *").text == "30 0 3 * * *"
    assert read_cron("@daily").text == "0 0 0 * * *"
    assert read_cron("*/5 * * * mon-fri").text == "0 */5 * * * mon-fri"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("* * *", "has 3 fields; five are minute"),
        ("0 0 3 * * * 2026", "has 7 fields"),
        ("0 25 * * *", "hour '25': is not within 0..23"),
        ("0 3 * * 7", "weekday '7': is not within 0..6"),
        ("0 3 0 * *", "day '0': is not within 1..31"),
        ("a 3 * * *", "minute 'a': 'a' is no number"),
        ("0 3 * foo *", "month 'foo': 'foo' is no number and no name like jan"),
        ("10-5 3 * * *", "minute '10-5': holds nothing"),
        ("*/0 3 * * *", "minute '\\*/0': holds nothing"),
        ("0 3 1-2-3 * *", "day '1-2-3': '2-3' is no number"),
        ("@sometimes", "'@sometimes' is not one of @yearly"),
        ("", "has 0 fields"),
    ],
)
def test_what_is_no_schedule(spec: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        read_cron(spec)
    with pytest.raises(OptionError, match="no time within five years"):
        next_times(read_cron("0 0 30 2 *"), 3, datetime(2026, 1, 1, tzinfo=UTC))
