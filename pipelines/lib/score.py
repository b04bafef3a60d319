"""Errors of one recording and of many: aligned by jiwer, added up as counts, never as rates.

A reference of nothing (non-speech: empty, or punctuation only) has no rate: whatever is written on
it, a mark such as "[music]" too, is a hallucination and counted apart, as the public leaderboard
leaves such clips out of WER. A reference that only normalisation empties ("um", "[music]") or that
nobody wrote is unscored. Of several references the one with the fewest errors counts.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import reduce

import jiwer

from pipelines.lib.normalize import DEFAULT, Metric, metric_for, normalize, units

LETTERS = {"equal": "C", "substitute": "S", "delete": "D", "insert": "I"}


class Kind(StrEnum):
    """What a recording can be judged for."""

    SPEECH = "speech"  # counts in error rates
    NON_SPEECH = "non-speech"  # empty reference: counts in the hallucination rate
    UNSCORED = "unscored"  # no reference, or it normalises to nothing: counts in neither


@dataclass(frozen=True, slots=True)
class Counts:
    """Aligned units: words or characters."""

    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.hits + other.hits,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )

    @property
    def num_reference(self) -> int:
        """Units of the reference."""
        return self.hits + self.substitutions + self.deletions

    @property
    def num_errors(self) -> int:
        """Substitutions, deletions and insertions."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float | None:
        """Errors per reference unit, above 1 when more was added than said; None without units."""
        return self.num_errors / self.num_reference if self.num_reference else None


@dataclass(frozen=True, slots=True)
class Span:
    """A run of one operation in an alignment: equal, substitute, insert or delete."""

    operation: str
    reference: tuple[str, ...]
    hypothesis: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ClipScore:
    """One recording's alignment."""

    clip_id: str
    kind: Kind
    metric: Metric
    counts: Counts
    spans: tuple[Span, ...]
    num_spacing: int = 0  # of the errors, those that only put spaces elsewhere ("e mail")
    hallucinated: bool = False  # something was written though nobody speaks
    chosen: str | None = None  # the reference that was aligned, when it is an alternative

    @property
    def operations(self) -> str:
        """The alignment, a letter a step: C correct, S substituted, D deleted, I inserted."""
        return "".join(
            LETTERS[span.operation] * max(len(span.reference), len(span.hypothesis))
            for span in self.spans
        )

    @property
    def num_hypothesis(self) -> int:
        """Units of the hypothesis."""
        return self.counts.hits + self.counts.substitutions + self.counts.insertions


@dataclass(frozen=True, slots=True)
class Pair:
    """A reference and a hypothesis as they were written."""

    clip_id: str
    reference: str | None  # None = not known
    hypothesis: str
    language: str | None  # of the reference; None = the normaliser for unknown languages
    alternatives: tuple[str, ...] = ()  # other ways to write what was said


def score_all(
    pairs: Sequence[Pair], *, normalizer: str = DEFAULT, compounds: bool = False
) -> list[ClipScore]:
    """Align every pair, in order. An empty hypothesis is all deletions.

    `compounds` takes words that differ in their spaces only as right.
    """
    metrics = [metric_for(pair.language) for pair in pairs]

    def counted(text: str, pair: Pair, metric: Metric) -> list[str]:
        return units(normalize(text, pair.language, normalizer), metric)

    owners: list[int] = []
    references: list[list[str]] = []
    hypotheses: list[list[str]] = []
    for i, (pair, metric) in enumerate(zip(pairs, metrics, strict=True)):
        heard = counted(pair.hypothesis, pair, metric)
        for text in (pair.reference or "", *pair.alternatives):
            owners.append(i)
            references.append(counted(text, pair, metric))
            hypotheses.append(heard)
    found: list[list[tuple[Span, ...]]] = [[] for _ in pairs]
    for i, spans in zip(owners, align(references, hypotheses), strict=True):
        found[i].append(spans)
    return [
        _best(pair, metric, aligned, compounds)
        for pair, metric, aligned in zip(pairs, metrics, found, strict=True)
    ]


def _best(
    pair: Pair, metric: Metric, aligned: Sequence[tuple[Span, ...]], compounds: bool
) -> ClipScore:
    """The alignment with the fewest errors; the first of equals."""
    merged = [_merge_compounds(spans) for spans in aligned]
    judged = merged if compounds else list(aligned)
    best = min(range(len(judged)), key=lambda i: _count(judged[i]).num_errors)
    counts = _count(judged[best])
    kind = _kind(pair, [unit for span in judged[best] for unit in span.reference])
    return ClipScore(
        clip_id=pair.clip_id,
        kind=kind,
        metric=metric,
        counts=counts,
        spans=judged[best],
        num_spacing=counts.num_errors - _count(merged[best]).num_errors,
        hallucinated=kind is Kind.NON_SPEECH and has_letters(pair.hypothesis),
        chosen=pair.alternatives[best - 1] if best else None,
    )


def has_letters(text: str) -> bool:
    """Whether anything but punctuation and space is written."""
    return any(unicodedata.category(char)[0] in "LN" for char in text)


def _merge_compounds(spans: tuple[Span, ...]) -> tuple[Span, ...]:
    """Neighbouring errors whose letters are the same without spaces become right words."""
    merged: list[Span] = []
    pending: list[Span] = []
    for span in (*spans, None):
        if span is not None and span.operation != "equal":
            pending.append(span)
            continue
        said = tuple(unit for each in pending for unit in each.reference)
        heard = tuple(unit for each in pending for unit in each.hypothesis)
        same = said and heard and len(said) != len(heard) and "".join(said) == "".join(heard)
        merged += [Span("equal", said, said)] if same else pending
        pending = []
        if span is not None:
            merged.append(span)
    return tuple(merged)


def align(
    references: Sequence[Sequence[str]], hypotheses: Sequence[Sequence[str]]
) -> list[tuple[Span, ...]]:
    """Shortest edit of each reference into its hypothesis, as runs of one operation."""
    both = [i for i, (r, h) in enumerate(zip(references, hypotheses, strict=True)) if r and h]
    aligned: dict[int, tuple[Span, ...]] = {}
    if both:
        output = jiwer.process_words(
            [" ".join(references[i]) for i in both], [" ".join(hypotheses[i]) for i in both]
        )
        for i, chunks in zip(both, output.alignments, strict=True):
            aligned[i] = tuple(
                Span(
                    chunk.type,
                    tuple(references[i][chunk.ref_start_idx : chunk.ref_end_idx]),
                    tuple(hypotheses[i][chunk.hyp_start_idx : chunk.hyp_end_idx]),
                )
                for chunk in chunks
            )
    return [
        aligned[i] if i in aligned else _one_sided(tuple(references[i]), tuple(hypotheses[i]))
        for i in range(len(references))
    ]


def total(scores: Iterable[ClipScore]) -> Counts:
    """The counts of all recordings with speech; of no others."""
    return reduce(Counts.__add__, (s.counts for s in scores if s.kind is Kind.SPEECH), Counts())


def _one_sided(reference: tuple[str, ...], hypothesis: tuple[str, ...]) -> tuple[Span, ...]:
    if reference:
        return (Span("delete", reference, ()),)
    return (Span("insert", (), hypothesis),) if hypothesis else ()


def _count(spans: Iterable[Span]) -> Counts:
    sizes = {"equal": 0, "substitute": 0, "delete": 0, "insert": 0}
    for span in spans:
        sizes[span.operation] += max(len(span.reference), len(span.hypothesis))
    return Counts(sizes["equal"], sizes["substitute"], sizes["delete"], sizes["insert"])


def _kind(pair: Pair, reference: Sequence[str]) -> Kind:
    if reference:
        return Kind.SPEECH
    known_silence = pair.reference is not None and not has_letters(pair.reference)
    return Kind.NON_SPEECH if known_silence else Kind.UNSCORED
