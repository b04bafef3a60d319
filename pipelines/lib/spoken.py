"""The language of recordings whose manifest does not say it: from a tag, a folder, or the text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import PurePosixPath

from pipelines.lib.manifest import Clip, parse_clip_language
from pipelines.lib.normalize import guess_language
from predictor.errors import InvalidInput

LANGUAGE_TAGS = ("lang", "locale", "language_code")
FOLDER = re.compile(r"[a-z]{2,3}([-_][A-Za-z0-9]{2,8})*")
NUM_FOLDERS = 2  # how far above the recording its language may stand
MIN_CHARS = 12  # fewer letters do not tell Latin languages apart


def with_languages(clips: Sequence[Clip], language: str | None = None) -> tuple[list[Clip], str]:
    """The clips with what could be found, and a sentence of where from ("" = nothing to say).

    `language` is the caller's, for every clip with speech that does not say its own.
    """
    found: list[Clip] = []
    sources: Counter[str] = Counter()
    for clip in clips:
        if clip.language is not None or clip.text == "":
            found.append(clip)
            continue
        name, source = _find(clip, language)
        sources[source] += 1
        found.append(replace(clip, language=name))
    told = [f"{number} from {source}" for source, number in sources.most_common() if source]
    if sources[""]:
        told.append(f"{sources['']} unknown")
    return found, f"language of recordings that do not say it: {', '.join(told)}" if told else ""


def _find(clip: Clip, language: str | None) -> tuple[str | None, str]:
    if language is not None:
        return language, "--language"
    for tag in LANGUAGE_TAGS:
        for value in clip.tags.get(tag, ()):
            if (name := _parsed(value)) is not None:
                return name, f"the tag {tag}"
    for folder in list(PurePosixPath(clip.audio).parents)[:NUM_FOLDERS]:
        if FOLDER.fullmatch(folder.name) and (name := _parsed(folder.name)) is not None:
            return name, "the folder's name"
    if clip.text and (name := guess_language(clip.text)) is not None:
        return name, "the script"
    if clip.text and (name := _detected(clip.text)) is not None:
        return name, "the words (lingua)"
    return None, ""


def _parsed(value: str) -> str | None:
    try:
        return parse_clip_language(value)
    except InvalidInput:
        return None


def _detected(text: str) -> str | None:
    """By lingua, where it is installed and sure."""
    if sum(char.isalpha() for char in text) < MIN_CHARS:
        return None
    name = _lingua()(text)
    return None if name is None else _parsed(name)


@cache
def _lingua() -> Callable[[str], str | None]:
    try:
        from lingua import LanguageDetectorBuilder
    except ImportError:
        return lambda text: None
    detector = (
        LanguageDetectorBuilder.from_all_languages().with_minimum_relative_distance(0.2).build()
    )

    def detect(text: str) -> str | None:
        found = detector.detect_language_of(text)
        return None if found is None else str(found.iso_code_639_1.name).lower()

    return detect
