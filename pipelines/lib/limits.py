"""What a candidate must keep to, as numbers and shares from a configuration or the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from pipelines.lib.errors import OptionError
from predictor.errors import InvalidInput
from predictor.text.languages import parse_language

NOT_JUDGED = ("none", "null", "off")


@dataclass(frozen=True, slots=True)
class Margin:
    """Most that an error rate may rise: absolute (share), or relative to the stable version's."""

    absolute: float = 0.0
    relative: float = 0.0

    def weight(self, times: float = 1.0) -> float:
        """What the stable version's rate is multiplied by before it is taken off."""
        return 1 + self.relative * times

    def __str__(self) -> str:
        if self.relative:
            return f"{self.relative:+.1%} of the stable rate"
        return f"{self.absolute * 100:+.2f} points"


MarginText = float | str | None


@dataclass(frozen=True, slots=True)
class GateLimits:
    """What a candidate must keep to. Rates are shares (0.01 = 1 %); None = not judged.

    Error margins may be relative: "5%" is 5 % more errors than the stable version makes.
    """

    wer_margin: MarginText = 0.005  # of each language, unless `language_margins` names it
    language_margins: Mapping[str, MarginText] = field(default_factory=dict)
    slices: tuple[str, ...] = ()  # tags whose values are judged as languages are
    max_wer: float | None = None  # the candidate's own error rate, in each language
    p95_latency_ratio: float | None = 1.25  # candidate's p95 over stable's
    max_p95_latency_s: float | None = None
    hallucination_margin: float | None = 0.02  # most that each of these shares may rise, absolute
    repetition_margin: float | None = 0.02
    language_accuracy_margin: float | None = 0.02
    failure_margin: float | None = 0.01
    max_failure_rate: float = 0.01  # of the candidate's requests, as seen
    confidence_margin: float | None = (
        0.05  # most that it may move, either way, where both are right
    )
    calibration_margin: float | None = 0.05  # most that the Brier score may rise
    min_clips: int = 30  # recordings with speech that both must have answered

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> GateLimits:
        """Limits from a configuration; OptionError names an unknown key or a wrong value."""
        known = {f.name for f in fields(cls)}
        read: dict[str, Any] = {}
        for key, value in values.items():
            if key not in known:
                raise OptionError(f"gate: unknown limit {key!r}, known: {', '.join(sorted(known))}")
            if key == "language_margins":
                read[key] = _languages(value)
            elif key == "slices":
                read[key] = _names(value)
            elif key == "wer_margin":
                parse_margin(value, f"gate: {key}")
                read[key] = value
            else:
                read[key] = _number(key, value)
        return cls(**read)

    def margin(self, language: str) -> Margin | None:
        """The margin of a language; None = not judged."""
        text = self.language_margins.get(language, self.wer_margin)
        return parse_margin(text, f"gate: margin of {language}")


def parse_margin(value: MarginText, where: str) -> Margin | None:
    """0.005, "0.005", "5%" or None (or "none"); OptionError for anything else."""
    if value is None or (isinstance(value, str) and value.strip().lower() in NOT_JUDGED):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise OptionError(f'{where}: expected a number or a share as "5%", found {value!r}')
    text = str(value).strip()
    try:
        number = float(text.removesuffix("%"))
    except ValueError as error:
        raise OptionError(
            f'{where}: expected a number or a share as "5%", found {value!r}'
        ) from error
    if not 0 <= number < float("inf"):
        raise OptionError(f"{where}: {value} is below 0")
    return Margin(relative=number / 100) if text.endswith("%") else Margin(absolute=number)


def _languages(value: Any) -> dict[str, MarginText]:
    if not isinstance(value, Mapping):
        raise OptionError(f"gate: language_margins: expected a mapping, found {value!r}")
    margins: dict[str, MarginText] = {}
    for name, margin in value.items():
        parse_margin(margin, f"gate: language_margins: {name}")
        try:
            parts = [parse_language(part) or part for part in str(name).split("+")]
        except InvalidInput as error:
            raise OptionError(f"gate: language_margins: {error.message}") from error
        margins["+".join(sorted(parts))] = margin
    return margins


def _names(value: Any) -> tuple[str, ...]:
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(n, str) for n in names):
        raise OptionError(f"gate: slices: expected names of tags, found {value!r}")
    return tuple(name.strip() for name in names if name.strip())


def _number(key: str, value: Any) -> float | int | None:
    optional = {f.name for f in fields(GateLimits) if "None" in str(f.type)}
    if key in optional and (value is None or str(value).lower() in NOT_JUDGED):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise OptionError(f"gate: {key}: expected a number, found {value!r}")
    if not value >= 0:
        raise OptionError(f"gate: {key}: {value} is below 0")
    return value
