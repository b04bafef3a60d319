"""Extra columns beside the error rate: names and terms, punctuation and case."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from pipelines.lib.normalize import metric_for, normalize, units
from pipelines.lib.score import align

MAX_LISTED = 20  # terms listed, those missed most


def keyword_errors(
    texts: Iterable[tuple[str, str, str | None]], keywords: Sequence[str], normalizer: str
) -> dict[str, Any] | None:
    """How often listed terms were missed or written where nobody said them.

    `texts` are reference, hypothesis and language. The rate is missed over said; None without
    keywords.
    """
    if not keywords:
        return None
    said: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    added: Counter[str] = Counter()
    for reference, hypothesis, language in texts:
        metric = metric_for(language)
        both = [units(normalize(t, language, normalizer), metric) for t in (reference, hypothesis)]
        for keyword in keywords:
            term = units(normalize(keyword, language, normalizer), metric)
            first, second = (_occurrences(term, text) for text in both)
            said[keyword] += first
            missed[keyword] += max(0, first - second)
            added[keyword] += max(0, second - first)
    total = said.total()
    listed = sorted(keywords, key=lambda k: (-missed[k] - added[k], k))[:MAX_LISTED]
    return {
        "said": total,
        "missed": missed.total(),
        "added": added.total(),
        "rate": missed.total() / total if total else None,
        "terms": [
            {"term": k, "said": said[k], "missed": missed[k], "added": added[k]} for k in listed
        ],
    }


def formatting(texts: Iterable[tuple[str, str]]) -> dict[str, Any] | None:
    """Errors of punctuation and case in what was otherwise heard right.

    Words and marks are tokens of their own. None when no reference has a capital or a mark: then
    there is nothing to compare with.
    """
    pairs = [(_tokens(reference), _tokens(hypothesis)) for reference, hypothesis in texts]
    if not any(_is_mark(t) or t != t.lower() for said, _ in pairs for t in said):
        return None
    errors = num_said = right_words = wrong_case = 0
    marks = Counter({"said": 0, "written": 0, "right": 0})
    lowered = [[[t.lower() for t in side] for side in pair] for pair in pairs]
    for (said, heard), spans in zip(
        pairs, align([p[0] for p in lowered], [p[1] for p in lowered]), strict=True
    ):
        num_said += len(said)
        marks["said"] += sum(map(_is_mark, said))
        marks["written"] += sum(map(_is_mark, heard))
        i = j = 0
        for span in spans:
            size = len(span.reference), len(span.hypothesis)
            if span.operation == "equal":
                for a, b in zip(said[i : i + size[0]], heard[j : j + size[1]], strict=True):
                    marks["right"] += _is_mark(a)
                    right_words += not _is_mark(a)
                    wrong_case += a != b
                    errors += a != b
            else:
                errors += max(size)
            i, j = i + size[0], j + size[1]
    return {
        "rate": errors / num_said if num_said else None,  # WER with case and punctuation
        "case": wrong_case / right_words if right_words else None,
        "punctuation_precision": marks["right"] / marks["written"] if marks["written"] else None,
        "punctuation_recall": marks["right"] / marks["said"] if marks["said"] else None,
    }


def _tokens(text: str) -> list[str]:
    return normalize(text, None, "none").split()


def _is_mark(token: str) -> bool:
    return not any(char.isalnum() for char in token)


def _occurrences(term: Sequence[str], text: Sequence[str]) -> int:
    """How often a term's units stand in a row, overlaps not counted."""
    size, found, i = len(term), 0, 0
    while size and i + size <= len(text):
        if list(text[i : i + size]) == list(term):
            found, i = found + 1, i + size
        else:
            i += 1
    return found
