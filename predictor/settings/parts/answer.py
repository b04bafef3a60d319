"""Settings: languages, and the forms of answers."""

from __future__ import annotations

from dataclasses import dataclass

from predictor.settings.spec import setting


@dataclass(frozen=True, kw_only=True)
class AnswerFields:
    """Part of Settings."""

    language_detection: bool = setting(
        True, "detect the language of requests that give none; `false` needs `language`"
    )
    language: str | None = setting(
        None,
        "language of requests that give none; setting it turns detection off",
        kind=str,
        none="auto",
    )
    output_format: str = setting(
        "text",
        "answer of `/api/v1/recognize`: `text` has the four plain fields, `json` adds `details`",
        choices=("text", "json"),
    )
    cue_max_columns: int = setting(42, "longest line of a subtitle, in columns", low=8, high=200)
    cue_max_wide_chars: int = setting(
        18,
        "the same for lines with Chinese, Japanese or Korean, in such characters",
        low=4,
        high=100,
    )
    cue_max_lines: int = setting(2, "most lines of a subtitle", low=1, high=6)
    cue_min_s: float = setting(
        1.0, "subtitles are shown at least so long where nothing follows", low=0, high=10
    )
    cue_max_s: float = setting(7.0, "longest time of a subtitle", low=1, high=60)
