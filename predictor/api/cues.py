"""How a request asks for its subtitles: limits in place of the settings of the same names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from predictor.api.hearing import read_number
from predictor.errors import InvalidInput
from predictor.text.cue_lines import SubtitleOptions

# The least and the most of each, by the setting that it stands in for.
CUE_LIMITS: Final[dict[str, tuple[float, float]]] = {
    "cue_max_columns": (8, 200),
    "cue_max_wide_chars": (4, 100),
    "cue_max_lines": (1, 6),
    "cue_min_s": (0, 10),
    "cue_max_s": (1, 60),
}


def read_cues(fields: Mapping[str, Any], usual: SubtitleOptions) -> SubtitleOptions:
    """`usual`, but for what was asked. Raises InvalidInput."""
    asked = {name: read_number(fields, name, *bounds) for name, bounds in CUE_LIMITS.items()}
    given = {name: value for name, value in asked.items() if value is not None}
    if not given:
        return usual
    changes: dict[str, Any] = {}
    for name, value in given.items():
        if not name.endswith("_s"):
            if value != int(value):
                raise InvalidInput(f"{name}: must be a whole number", field=name, value=value)
            value = int(value)
        changes[name.removeprefix("cue_")] = value
    if (wide := changes.pop("max_wide_chars", None)) is not None:
        changes["max_wide_columns"] = 2 * wide
    cues = replace(usual, **changes)
    if cues.min_s > cues.max_s:
        field = "cue_min_s" if "cue_min_s" in given else "cue_max_s"
        raise InvalidInput(
            f"{field}: cues of {cues.min_s:g} to {cues.max_s:g} s cannot be", field=field
        )
    return cues
