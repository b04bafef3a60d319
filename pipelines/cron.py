"""Schedules as Kubeflow Pipelines' controller reads them: robfig/cron 1.2, SECONDS first.

Its parser takes six fields (second, minute, hour, day, month, weekday) and lets the last be left
out, so the five fields that everybody writes mean something else there: "0 3 * * *" is every hour
at :03. Five fields are translated here, six are taken as they are, and the next times are told.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pipelines.lib.errors import OptionError

MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
# Name, lowest, highest, names of values from the lowest on.
FIELDS: tuple[tuple[str, int, int, list[str]], ...] = (
    ("second", 0, 59, []),
    ("minute", 0, 59, []),
    ("hour", 0, 23, []),
    ("day", 1, 31, []),
    ("month", 1, 12, MONTHS),
    ("weekday", 0, 6, DAYS),
)
DESCRIPTORS = {
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
    "@monthly": "0 0 0 1 * *",
    "@weekly": "0 0 0 * * 0",
    "@daily": "0 0 0 * * *",
    "@midnight": "0 0 0 * * *",
    "@hourly": "0 0 * * * *",
}
HORIZON_YEARS = 5  # robfig/cron gives up after the fifth year to come


@dataclass(frozen=True, slots=True)
class Schedule:
    """Six fields and the values that each allows."""

    text: str  # as it is handed to Kubeflow
    allowed: tuple[frozenset[int], ...]
    any_day: bool  # the day of the month is * or ?
    any_weekday: bool

    def next(self, after: datetime) -> Iterator[datetime]:
        """Times after a time, in its time zone; ends when there is none within five years."""
        seconds, minutes, hours, *_ = self.allowed
        day = after.replace(hour=0, minute=0, second=0, microsecond=0)
        last = after
        while day.year <= (last + timedelta(seconds=1)).year + HORIZON_YEARS:
            if self._on(day):
                for hour in sorted(hours):
                    for minute in sorted(minutes):
                        for second in sorted(seconds):
                            at = day.replace(hour=hour, minute=minute, second=second)
                            if at > after:
                                last = at
                                yield at
            day += timedelta(days=1)

    def _on(self, day: datetime) -> bool:
        *_, days, months, weekdays = self.allowed
        by_day, by_weekday = day.day in days, day.isoweekday() % 7 in weekdays
        # Both when one of them is a star; either when both are given.
        both = self.any_day or self.any_weekday
        return day.month in months and ((by_day and by_weekday) if both else (by_day or by_weekday))


def read_cron(text: str) -> Schedule:
    """A schedule of five fields (as cron has them), six, or a name such as @daily.

    Raises OptionError that names the field and what it may hold.
    """
    known = DESCRIPTORS.get(text.strip(), text)
    if known.startswith("@"):
        raise OptionError(f"cron: {text!r} is not one of {', '.join(DESCRIPTORS)}")
    parts = known.split()
    if len(parts) == 5:
        parts = ["0", *parts]
    if len(parts) != 6:
        raise OptionError(
            f"cron: {text!r} has {len(parts)} fields; five are minute, hour, day, month, weekday, "
            "six have the second first"
        )
    allowed = tuple(
        frozenset(_field(part, *field)) for part, field in zip(parts, FIELDS, strict=True)
    )
    return Schedule(" ".join(parts), allowed, _is_star(parts[3]), _is_star(parts[5]))


def next_times(schedule: Schedule, number: int = 3, after: datetime | None = None) -> list[str]:
    """The next times in UTC, which is what the controller's clock is unless it was told otherwise.

    OptionError when there is none within five years.
    """
    found = []
    for at in schedule.next(after or datetime.now(UTC)):
        found.append(at.strftime("%Y-%m-%d %H:%M:%S UTC"))
        if len(found) == number:
            break
    if not found:
        raise OptionError(f"cron: {schedule.text!r} has no time within five years")
    return found


def _field(text: str, name: str, low: int, high: int, names: list[str]) -> set[int]:
    found: set[int] = set()
    for part in text.split(","):
        found |= set(_range(part, name, low, high, names))
    return found


def _range(part: str, name: str, low: int, high: int, names: list[str]) -> range:
    def wrong(why: str) -> OptionError:
        return OptionError(f"cron: {name} {part!r}: {why}")

    def number(text: str) -> int:
        if text.lower() in names:
            return names.index(text.lower()) + low
        if not re.fullmatch(r"\d+", text):
            known = f" and no name like {names[0]}" if names else ""
            raise wrong(f"{text!r} is no number{known}")
        return int(text)

    span, slash, step_text = part.partition("/")
    first, hyphen, last = span.partition("-")
    if first in ("*", "?") and not hyphen:
        start, end = low, high
    else:
        start = number(first)
        end = number(last) if hyphen else high if slash else start  # N/step goes to the highest
    step = number(step_text) if slash else 1
    if start < low or end > high:
        raise wrong(f"is not within {low}..{high}")
    if start > end or step == 0:
        raise wrong("holds nothing")
    return range(start, end + 1, step)


def _is_star(text: str) -> bool:
    return any(part.split("/")[0] in ("*", "?") for part in text.split(","))
