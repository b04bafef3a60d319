r"""Trains the tiny forced aligner on the synthesizer's word times, and writes its checkpoint.

    python -m tests.tiny.align --shape nano --minutes 5.2 --lr 2e-3 --init EARLY --out FIRST
    python -m tests.tiny.align --shape nano --minutes 2.7 --lr 1e-3 --ctc-until 0 \
        --init FIRST --out OUT

EARLY: a checkpoint of the same shape whose encoder and embedding are taken over. The second run is
mostly long rows. Writes OUT/tiny-aligner, ready for predictor/checkpoints, and OUT/scores.json.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import corpus
from . import model as tiny
from .align_scores import evaluate
from .batches import NEVER, SAMPLE_RATE_HZ, Bucket, Plan, Planner, _fill, audio_tokens
from .tokenizer import ADDED_TOKENS, VOCAB_SIZE, UnitTokenizer
from .train import PROCESSOR_FILES, Step, Trainer, arguments, run

CLASS_S = 0.04  # a class of time; the published aligner's is 0.08
NUM_CLASSES = 800  # 32 s, the longest rows of the training
MARK = ADDED_TOKENS["<timestamp>"]
NEIGHBOUR = 0.15  # of the target's weight, on each class beside the right one
BUCKETS = (
    Bucket("4s", 320, 4, 1, 100, context=0),
    Bucket("8s", 160, 8, 3, 180, context=0),
    Bucket("16s", 80, 16, 8, 330, context=0),
    Bucket("32s", 40, 32, 14, 620, context=0, ctc=False),
)
LONG_SHARES = (0.06, 0.14, 0.3, 0.5)  # of the steps of a second training
# The audio, then each word and its two time marks: the published aligner's prompt.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- for part in message.content -%}
{%- if part.type == 'audio' or 'audio' in part or 'audio_url' in part -%}
{{- '<|audio_start|><|audio_pad|><|audio_end|>' -}}
{%- elif part.type == 'text' -%}{{- part.text + '<timestamp><timestamp>' -}}{%- endif -%}
{%- endfor -%}
{%- endfor -%}
"""


@dataclass
class AlignPlan(Plan):
    """A batch whose time marks have a class each; -1 everywhere else."""

    labels: NDArray[np.int32]  # [B, L]


class AlignPlanner(Planner):
    """Rows of audio and words; each word's mark is to say when it starts and ends."""

    share_of_silence = 0.0

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.before = np.array([ADDED_TOKENS["<|audio_start|>"]])
        self.after = np.array([ADDED_TOKENS["<|audio_end|>"]])

    def _assemble(  # type: ignore[override]
        self,
        bucket: Bucket,
        chosen: NDArray[np.int64],
        used: NDArray[np.bool_],
        starts: NDArray[np.int64],
        rate: NDArray[np.float32],
        num_samples: NDArray[np.int64],
        _language: NDArray[Any],
        tokens: list[tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]],
        _keep_context: NDArray[np.bool_],
    ) -> AlignPlan:
        store, B = self.store, bucket.rows
        text_len = np.sum([lengths for _, lengths, _ in tokens], 0)
        fits = text_len <= bucket.text
        audio_len = audio_tokens(num_samples)
        ids = np.full((B, bucket.columns + 64), self.pad, np.int32)
        at = np.zeros(B, np.int64)
        _fill(ids, at, np.tile(self.before, B), np.ones(B, np.int64))
        _fill(ids, at, np.full(int(audio_len.sum()), self.audio), audio_len)
        _fill(ids, at, np.tile(self.after, B), np.ones(B, np.int64))
        text = np.zeros((B, bucket.text + 1), np.int32)
        text_at = np.zeros(B, np.int64)
        rows, times = [], []
        for k, (flat, lengths, units) in enumerate(tokens):
            keep = np.repeat(fits, lengths)
            _fill(ids, at, flat[keep], lengths * fits)
            words = flat[keep]
            owner = np.repeat(np.arange(B), lengths * fits)
            spoken = words != MARK
            _fill(text, text_at, words[spoken], np.bincount(owner[spoken], minlength=B))
            count = units * fits
            owners = np.repeat(np.arange(B), count)
            for ragged in (store.unit_starts, store.unit_ends):
                samples = ragged.gather(chosen[:, k], count) / rate[owners]
                times.append((starts[owners, k] + samples) / SAMPLE_RATE_HZ)
            rows.append(owners)
        labels = np.full_like(ids, -1)
        for row in range(B):
            marks = np.flatnonzero(ids[row, : at[row]] == MARK)
            spoken_at = [
                np.stack([times[2 * k][rows[k] == row], times[2 * k + 1][rows[k] == row]], 1)
                for k in range(len(tokens))
            ]
            classes = np.round(np.concatenate(spoken_at).ravel() / CLASS_S).astype(np.int32)
            assert len(classes) == len(marks)
            labels[row, marks] = np.minimum(classes, NUM_CLASSES - 1)
        return AlignPlan(
            source=store.start[chosen],
            source_len=np.where(used, store.length[chosen], 1).astype(np.int32),
            start=np.where(used, starts, NEVER).astype(np.int32),
            rate=rate,
            num_samples=num_samples.astype(np.int32),
            ids=ids[:, : bucket.columns],
            num_ids=np.where(fits, np.minimum(at, bucket.columns), 0).astype(np.int32),
            loss_from=np.zeros(B, np.int32),
            text=text[:, : bucket.text],
            num_text=np.where(fits, text_at, 0).astype(np.int32),
            labels=labels[:, : bucket.columns],
        )


class AlignStep(Step):
    """The loss is on the time marks, a little of it on the classes beside the right one."""

    def _text_loss(self, logits: Tensor) -> Tensor:
        labels = self.inputs["labels"].long()
        learned = labels >= 0
        log_probs = logits.float().log_softmax(-1)
        loss = torch.zeros((), device=logits.device)
        for shift, weight in ((0, 1 - 2 * NEIGHBOUR), (-1, NEIGHBOUR), (1, NEIGHBOUR)):
            target = (labels + shift).clamp(0, NUM_CLASSES - 1)
            each = log_probs.gather(2, target[..., None])[..., 0]
            loss = loss - weight * (each * learned).sum()
        return loss / learned.sum().clamp(min=1)


class AlignTrainer(Trainer):
    buckets = BUCKETS
    step_type = AlignStep

    def _bucket(self, rng: np.random.Generator, progress: float) -> int:
        """A second training, which has no CTC, is mostly long rows."""
        if self.args.ctc_until > 0:
            return super()._bucket(rng, progress)
        return int(rng.choice(4, p=LONG_SHARES))

    def build(self) -> Any:
        shape = tiny.SHAPES[self.args.shape]
        return tiny.build_aligner(shape, ADDED_TOKENS, VOCAB_SIZE, NUM_CLASSES)

    def start_producers(self) -> corpus.Producers:
        args = self.args
        return corpus.start_producers(
            args.processes, args.seed, self.processor_dir, for_alignment=True
        )

    def planner(self, tokenizer: UnitTokenizer) -> Planner:
        return AlignPlanner(self.store, tokenizer, ADDED_TOKENS, self.args.seed)


def export(shape: str, weights: Path, processor: Path, out: Path) -> None:
    """The checkpoint as `Qwen3ASRForTokenClassification` saves it, and its processor's files."""
    from safetensors.torch import load_file

    model = tiny.build_aligner(tiny.SHAPES[shape], ADDED_TOKENS, VOCAB_SIZE, NUM_CLASSES)
    model.load_state_dict(load_file(weights), strict=True)
    out.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(out)
    for name in PROCESSOR_FILES:
        shutil.copyfile(processor / name, out / name)
    config = json.loads((out / "config.json").read_text())
    for name in ("id2label", "label2id"):  # 800 names that say nothing
        config.pop(name, None)
    config["num_labels"] = NUM_CLASSES
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    (out / "chat_template.jinja").write_text(CHAT_TEMPLATE, "utf-8")
    settings = json.loads((out / "processor_config.json").read_text())
    settings["timestamp_segment_time"] = round(1000 * CLASS_S)
    (out / "processor_config.json").write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
    for file in out.iterdir():
        file.chmod(0o644)


def main() -> None:
    args = arguments().parse_args()
    run(AlignTrainer, args)
    folder = args.out / "tiny-aligner"
    export(args.shape, args.out / "model.safetensors", args.out / "processor", folder)
    scores = evaluate(folder, Path(__file__).parents[1] / "data" / "eval")
    (args.out / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
    print(json.dumps(scores))


if __name__ == "__main__":
    main()
