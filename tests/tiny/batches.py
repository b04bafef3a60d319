"""Plans of training batches, vectorised in numpy: which utterance goes where, and the token ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .store import Store

SAMPLE_RATE_HZ = 16_000
HOP = 160
NEVER = 1 << 30  # destination of an unused segment: past the end of any row


@dataclass(frozen=True)
class Bucket:
    """The fixed shape of one kind of batch."""

    name: str
    rows: int
    seconds: int  # of audio, at most
    segments: int  # utterances in a row, at most
    text: int  # text tokens, at most
    context: int = 48
    ctc: bool = True

    @property
    def samples(self) -> int:
        return self.seconds * SAMPLE_RATE_HZ

    @property
    def columns(self) -> int:
        return self.seconds * 13 + self.text + self.context + 32


BUCKETS = (
    Bucket("4s", 320, 4, 1, 44),
    Bucket("8s", 160, 8, 3, 72),
    Bucket("16s", 80, 16, 8, 130, context=0),
    Bucket("32s", 44, 32, 14, 240, context=0, ctc=False),
)


@dataclass
class Plan:
    """One batch; all arrays have a row for each example."""

    source: NDArray[np.int64]  # [B, K] first sample in the store
    source_len: NDArray[np.int32]  # [B, K]
    start: NDArray[np.int32]  # [B, K] first sample in the row, NEVER where unused
    rate: NDArray[np.float32]  # [B] source samples per output sample
    num_samples: NDArray[np.int32]  # [B] of the row
    ids: NDArray[np.int32]  # [B, L] tokens, padded
    num_ids: NDArray[np.int32]  # [B]
    loss_from: NDArray[np.int32]  # [B] column of the first token that is learned
    text: NDArray[np.int32]  # [B, S] text tokens for CTC
    num_text: NDArray[np.int32]  # [B]


def audio_tokens(num_samples: NDArray[Any]) -> NDArray[np.int64]:
    """Audio tokens of clips of so many samples (clips under 0.5 s count as 0.5 s)."""
    frames = np.maximum(num_samples, 8000) // HOP
    tail = frames % 100
    for _ in range(3):
        tail = (tail + 1) // 2
    return tail + frames // 100 * 13


def _fill(
    out: NDArray[np.int32],
    columns: NDArray[np.int64],
    flat: NDArray[Any],
    lengths: NDArray[np.int64],
) -> None:
    """Write ragged rows (`flat`, one after another) at `columns[b]`, and move the columns on."""
    rows = np.repeat(np.arange(len(lengths)), lengths)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    out[rows, np.repeat(columns, lengths) + within] = flat
    columns += lengths


class Planner:
    """Draws random batches from a store."""

    share_of_silence = 0.05  # rows whose language is none

    def __init__(self, store: Store, tokenizer: Any, added: dict[str, int], seed: int) -> None:
        self.store = store
        self.rng = np.random.default_rng(seed)
        start, end = added["<|im_start|>"], added["<|im_end|>"]
        encode = tokenizer.encode
        newline = encode("\n")
        self.head = np.array([start, *encode("system\n")])
        self.middle = np.array([end, *newline, start, *encode("user\n"), added["<|audio_start|>"]])
        self.tail = np.array([added["<|audio_end|>"], end, *newline, start, *encode("assistant\n")])
        self.audio, self.end, self.pad = added["<|audio_pad|>"], end, added["<|endoftext|>"]
        marker = added["<asr_text>"]
        self.prefix = [
            np.array([*encode(f"language {name}"), marker])
            for name in ("None", "English", "Chinese")
        ]

    def plan(self, bucket: Bucket) -> Plan:
        """One batch of `bucket`; long rows are several utterances with pauses."""
        rng, store = self.rng, self.store
        B, K = bucket.rows, bucket.segments
        language = rng.choice([1, 2], B, p=[0.58, 0.42])
        none = rng.random(B) < self.share_of_silence
        language[none] = 0
        rate = np.where(rng.random(B) < 0.6, rng.uniform(0.88, 1.14, B), 1.0).astype(np.float32)
        chosen = np.stack([self._choose(language) for _ in range(K)], 1)  # [B, K]
        if bucket.seconds == 4:
            for _ in range(3):  # mostly utterances that fit; the rest is cut
                long = store.length[chosen[:, 0]] > 3.9 * SAMPLE_RATE_HZ * rate
                chosen[long, 0] = self._choose(language[long])

        lead = self._pauses(B, first=True)
        length = np.minimum(store.length[chosen], 8 * SAMPLE_RATE_HZ)
        out_len = (length / rate[:, None]).astype(np.int64)
        pauses = np.stack([lead] + [self._pauses(B) for _ in range(K - 1)], 1)
        ends = np.cumsum(out_len + pauses, 1)
        starts = ends - out_len
        target = rng.uniform(0.25 if K > 3 else 0.1, 1.0, B) * bucket.samples
        used = (ends <= np.minimum(target[:, None], bucket.samples)) & (np.arange(K) < K)
        used[:, 0] = True
        used = np.logical_and.accumulate(used, 1)
        count = used.sum(1)
        last = count - 1
        rows = np.arange(B)

        limit = bucket.samples - 1600
        cut_short = rng.random(B) < 0.12  # end in the middle of speech
        stop = ends[rows, last] + np.where(rng.random(B) < 0.5, self._pauses(B), 0)
        cut_at = starts[rows, last] + (rng.uniform(0.15, 1.0, B) * out_len[rows, last]).astype(int)
        stop = np.where(cut_short, cut_at, stop)
        num_samples = np.clip(stop, 3200, limit)

        unit_limit = ((num_samples - starts[rows, last]) * rate).astype(np.int64)
        tokens = self._tokens(chosen, used, last, unit_limit, stop=ends[rows, last] > num_samples)
        keep_context = (count == 1) & (bucket.context > 0)
        return self._assemble(
            bucket, chosen, used, starts, rate, num_samples, language, tokens, keep_context
        )

    def _choose(self, language: NDArray[Any]) -> NDArray[np.int64]:
        out = np.zeros(len(language), np.int64)
        for code, pool in self.store.by_language.items():
            mask = language == code
            if mask.any():
                out[mask] = pool[self.rng.integers(0, len(pool), int(mask.sum()))]
        return out

    def _pauses(self, n: int, *, first: bool = False) -> NDArray[np.int64]:
        seconds = self.rng.gamma(1.6, 0.22, n).clip(0.03, 2.0)
        if first:
            seconds = np.where(self.rng.random(n) < 0.5, 0.0, seconds)
        return (seconds * SAMPLE_RATE_HZ).astype(np.int64)

    def _tokens(
        self,
        chosen: NDArray[np.int64],
        used: NDArray[np.bool_],
        last: NDArray[np.int64],
        unit_limit: NDArray[np.int64],
        stop: NDArray[np.bool_],
    ) -> list[tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]]:
        """For each segment column: its tokens (flat), how many each row has of them, and units."""
        store = self.store
        columns = []
        for k in range(chosen.shape[1]):
            pool = store.tokens if k == 0 else store.follow
            lengths = np.where(used[:, k], pool.lengths(chosen[:, k]), 0)
            units = np.where(used[:, k], store.unit_ends.lengths(chosen[:, k]), 0)
            for b in np.flatnonzero(stop & (last == k) & (lengths > 0)):
                item = int(chosen[b, k])
                heard = int(np.sum(store.unit_ends.row(item) <= unit_limit[b] + 400))
                whole = store.unit_tokens.row(item)
                kept = int(whole[heard - 1]) if heard else 0
                shift = int(lengths[b]) - int(whole[-1])  # the first unit may differ in tokens
                lengths[b] = kept + shift if kept else 0
                units[b] = heard
            columns.append((pool.gather(chosen[:, k], lengths), lengths, units))
        return columns

    def _assemble(
        self,
        bucket: Bucket,
        chosen: NDArray[np.int64],
        used: NDArray[np.bool_],
        starts: NDArray[np.int64],
        rate: NDArray[np.float32],
        num_samples: NDArray[np.int64],
        language: NDArray[Any],
        tokens: list[tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]],
        keep_context: NDArray[np.bool_],
    ) -> Plan:
        store, rng, B = self.store, self.rng, bucket.rows
        forced = rng.random(B) < 0.3  # the language stands in the prompt
        shown = np.where((language == 0) & forced, rng.integers(1, 3, B), language)
        context_len = np.where(keep_context, store.context.lengths(chosen[:, 0]), 0)
        context_len[context_len > bucket.context] = 0
        prefix_len = np.array([len(p) for p in self.prefix])[shown]
        audio_len = audio_tokens(num_samples)
        text_len = np.sum([lengths for _, lengths, _ in tokens], 0)
        fits = text_len <= bucket.text  # rare: learn nothing from a row whose text is too long

        ids = np.full((B, bucket.columns + 64), self.pad, np.int32)
        at = np.zeros(B, np.int64)

        def same(values: NDArray[Any]) -> None:
            _fill(ids, at, np.tile(values, B), np.full(B, len(values)))

        same(self.head)
        _fill(ids, at, store.context.gather(chosen[:, 0], context_len), context_len)
        same(self.middle)
        _fill(ids, at, np.full(int(audio_len.sum()), self.audio), audio_len)
        same(self.tail)
        loss_from = at + np.where(forced, prefix_len, 0)
        _fill(ids, at, np.concatenate([self.prefix[s] for s in shown]), prefix_len)
        text = np.zeros((B, bucket.text + 1), np.int32)
        text_at = np.zeros(B, np.int64)
        for flat, lengths, _ in tokens:
            ok = lengths * fits
            keep = np.repeat(fits, lengths)
            _fill(ids, at, flat[keep], ok)
            _fill(text, text_at, flat[keep], ok)
        same(np.array([self.end]))
        num_ids = np.where(fits, at, 0)
        return Plan(
            source=store.start[chosen],
            source_len=np.where(used, store.length[chosen], 1).astype(np.int32),
            start=np.where(used, starts, NEVER).astype(np.int32),
            rate=rate,
            num_samples=num_samples.astype(np.int32),
            ids=ids[:, : bucket.columns],
            num_ids=np.minimum(num_ids, bucket.columns).astype(np.int32),
            loss_from=loss_from.astype(np.int32),
            text=text[:, : bucket.text],
            num_text=np.where(fits, text_at, 0).astype(np.int32),
        )
