"""Errors of one recording and of many: aligned by jiwer, added up as counts, never as rates.

A reference of nothing (non-speech) has no rate: words on it are hallucinations and counted apart,
as the public leaderboard leaves such clips out of WER. A reference that only normalisation empties
("um", "[music]") or that nobody wrote is unscored.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import reduce

import jiwer

from pipelines.lib.normalize import Metric, metric_for, normalize, units

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


def score_all(pairs: Sequence[Pair]) -> list[ClipScore]:
    """Align every pair, in order. An empty hypothesis is all deletions."""
    metrics = [metric_for(pair.language) for pair in pairs]
    references = [
        units(normalize(p.reference or "", p.language), m)
        for p, m in zip(pairs, metrics, strict=True)
    ]
    hypotheses = [
        units(normalize(p.hypothesis, p.language), m) for p, m in zip(pairs, metrics, strict=True)
    ]
    alignments = align(references, hypotheses)
    return [
        ClipScore(
            clip_id=pair.clip_id,
            kind=_kind(pair, reference),
            metric=metric,
            counts=_count(spans),
            spans=spans,
        )
        for pair, metric, reference, spans in zip(
            pairs, metrics, references, alignments, strict=True
        )
    ]


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
    known_silence = pair.reference is not None and not pair.reference.strip()
    return Kind.NON_SPEECH if known_silence else Kind.UNSCORED
