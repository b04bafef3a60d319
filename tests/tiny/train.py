"""Trains one tiny checkpoint on a GPU: whole training steps as CUDA graphs, data made beside it.

    python -m tests.tiny.train --shape base --minutes 9 --out OUT

Writes OUT/model.safetensors (averaged weights, float32), OUT/log.jsonl, and with --snapshots a
series of early states.
"""

from __future__ import annotations

import argparse
import json
import math
import queue
import shutil
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import corpus
from . import model as tiny
from .augment import Augment, gather_audio, make_noise
from .batches import BUCKETS, Bucket, Plan, Planner
from .ctc import ctc_loss
from .store import Store
from .tokenizer import ADDED_TOKENS, VOCAB_SIZE, UnitTokenizer, build_processor

BLANK = ADDED_TOKENS["<timestamp>"]  # an id that is never text
PROCESSOR_FILES = (
    "chat_template.jinja",
    "merges.txt",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
)
SMOOTHING = 0.03
CTC_WEIGHT = 0.6


class Step:
    """One optimiser step on batches of one bucket; on CUDA captured once, then replayed."""

    def __init__(self, trainer: Trainer, bucket: Bucket) -> None:
        self.trainer = trainer
        self.bucket = bucket
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: dict[str, Tensor] = {}
        self.losses = torch.zeros(2, device=trainer.device)
        self._staging: deque[tuple[dict[str, Tensor], Any]] = deque()

    def __call__(self, plan: Plan) -> None:
        self._load(plan)
        if self.trainer.device.type != "cuda":
            self._run()
            return
        if self.graph is None:
            self._capture()
        assert self.graph is not None
        self.graph.replay()

    def _load(self, plan: Plan) -> None:
        """Copy the plan into the fixed inputs, through pinned memory that outlives the copy."""
        cuda = self.trainer.device.type == "cuda"
        staged = {}
        for field in fields(plan):
            host = torch.from_numpy(np.ascontiguousarray(getattr(plan, field.name)))
            host = host.pin_memory() if cuda else host
            if field.name not in self.inputs:
                self.inputs[field.name] = host.to(self.trainer.device)
            else:
                self.inputs[field.name].copy_(host, non_blocking=True)
            staged[field.name] = host
        if cuda:
            event = torch.cuda.Event()
            event.record()
            self._staging.append((staged, event))
            while len(self._staging) > 6:
                _, done = self._staging.popleft()
                done.synchronize()

    def _capture(self) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._run()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=self.trainer.graph_pool):
            self._run()
        self.trainer.graph_pool = self.graph.pool()

    def _run(self) -> None:
        t, x = self.trainer, self.inputs
        with torch.no_grad():
            audio = gather_audio(
                t.store.audio, x["source"], x["source_len"], x["start"], x["rate"],
                x["num_samples"], self.bucket.samples,
            )  # fmt: skip
            mel, frames = t.augment(audio, x["num_samples"])
            num_tokens = tiny.num_audio_tokens(frames.long())
        autocast = (
            torch.autocast("cuda", torch.bfloat16, cache_enabled=False)
            if t.device.type == "cuda"
            else nullcontext()
        )
        with autocast:
            states = tiny.encode(t.model, mel, num_tokens)
            logits = tiny.decode(t.model, x["ids"], states)
            ctc_logits = t.ctc_head(states) if self.bucket.ctc else None
        loss = self._text_loss(logits)
        ctc = torch.zeros((), device=t.device)
        if ctc_logits is not None:
            each = ctc_loss(
                ctc_logits.float(), x["text"].long(), num_tokens, x["num_text"].long(), BLANK
            )
            ctc = (each * (x["num_ids"] > 0)).sum() / x["num_text"].sum().clamp(min=1)
        t.optimizer.zero_grad(set_to_none=False)
        (loss + CTC_WEIGHT * ctc).backward()
        nn.utils.clip_grad_norm_(t.parameters, 1.0, error_if_nonfinite=False, foreach=True)
        t.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(t.averaged, t.parameters, t.average_step)
            self.losses.copy_(torch.stack([loss.detach(), ctc.detach()]))

    def _text_loss(self, logits: Tensor) -> Tensor:
        """Cross-entropy of the next token from `loss_from` to the end, with label smoothing."""
        x = self.inputs
        labels = x["ids"][:, 1:].long()
        column = torch.arange(1, x["ids"].shape[1], device=labels.device)
        learned = (column >= x["loss_from"][:, None]) & (column < x["num_ids"][:, None])
        log_probs = logits[:, :-1].float().log_softmax(-1)
        target = log_probs.gather(2, labels[..., None])[..., 0]
        each = -(1 - SMOOTHING) * target - SMOOTHING * log_probs.mean(-1)
        return (each * learned).sum() / learned.sum().clamp(min=1)


class Trainer:
    """Model, optimiser, data and the loop over wall-clock time."""

    buckets: tuple[Bucket, ...] = BUCKETS
    step_type = Step

    def __init__(self, args: argparse.Namespace, out: Path) -> None:
        self.device = torch.device(args.device)
        self.out = out
        self.args = args
        torch.manual_seed(args.seed)
        self.processor_dir = out / "processor"
        if args.processor:  # token ids must stay those of the weights or of the sister checkpoint
            self.processor_dir.mkdir(exist_ok=True)
            for name in PROCESSOR_FILES:
                shutil.copyfile(Path(args.processor) / name, self.processor_dir / name)
        else:
            build_processor(self.processor_dir)
        self.model = self.build().to(self.device)
        if args.init:
            from safetensors.torch import load_file

            state: dict[str, Tensor] = {}
            for path in sorted(Path(args.init).glob("*.safetensors")):
                state |= load_file(path)
            self.model.load_state_dict({k: v.float() for k, v in state.items()}, strict=False)
        d_model = tiny.SHAPES[args.shape].d_model
        for conv in ("conv2d1", "conv2d2", "conv2d3"):
            getattr(self.model.model.audio_tower, conv).to(memory_format=torch.channels_last)
        self.ctc_head = nn.Linear(d_model, VOCAB_SIZE).to(self.device)
        self.parameters = [*self.model.parameters(), *self.ctc_head.parameters()]
        self.averaged = [p.detach().clone() for p in self.parameters]
        self.average_step = 0.002
        self.lr = torch.zeros((), device=self.device)
        decay = [p for p in self.parameters if p.ndim > 1]
        plain = [p for p in self.parameters if p.ndim <= 1]
        cuda = self.device.type == "cuda"
        self.optimizer = torch.optim.AdamW(
            [{"params": decay, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}],
            lr=self.lr, betas=(0.9, 0.98), fused=cuda, capturable=cuda,
        )  # fmt: skip
        for p in self.parameters:
            p.grad = torch.zeros_like(p)
        self.graph_pool: Any = None
        self.store = Store(self.device, args.capacity)
        self._blocks: queue.Queue[corpus.Block] = queue.Queue(maxsize=8)
        self._closing = False
        self.log = (out / "log.jsonl").open("w")

    def train(self) -> None:
        """Run for the given minutes, feeding utterances as they are made."""
        args = self.args
        tokenizer = UnitTokenizer(self.processor_dir)
        with self.start_producers() as producers:
            receiver = threading.Thread(target=self._receive, args=(producers,), daemon=True)
            receiver.start()
            while len(self.store) < args.first_items:
                self.store.add(self._blocks.get(timeout=60))
            print(f"{len(self.store)} utterances to begin with", flush=True)
            self.augment = Augment(make_noise(self.store, args.noise_s, args.seed))
            planner = self.planner(tokenizer)
            steps = [self.step_type(self, b) for b in self.buckets]
            aligned = False
            retired: list[Step] = []
            for number, progress in enumerate(self._clock(args.minutes * 60)):
                if not aligned and progress >= args.ctc_until:  # captured anew, without CTC
                    aligned = True
                    retired.extend(steps)  # keeps the memory pool that the new graphs share
                    steps = [self.step_type(self, replace(b, ctc=False)) for b in self.buckets]
                self._set_rates(number, progress)
                step = steps[self._bucket(planner.rng, progress)]
                step(planner.plan(step.bucket))
                if number % 4 == 0:
                    self._take_in()
                if number % 200 == 0:
                    self._report(number, progress, step)
            self._closing = True
            while not self._blocks.empty():
                self._blocks.get()
            receiver.join(timeout=30)
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def build(self) -> Any:
        return tiny.build(tiny.SHAPES[self.args.shape], ADDED_TOKENS, VOCAB_SIZE)

    def start_producers(self) -> corpus.Producers:
        args = self.args
        return corpus.start_producers(args.processes, args.seed, self.processor_dir)

    def planner(self, tokenizer: UnitTokenizer) -> Planner:
        return Planner(self.store, tokenizer, ADDED_TOKENS, self.args.seed)

    def _receive(self, producers: corpus.Producers) -> None:
        """In a thread of its own: from the workers' pipes to the queue, until the store is full."""
        for block in producers:
            if self._closing or self.store.full(block):
                return
            self._blocks.put(block)

    def _take_in(self) -> None:
        if not self._blocks.empty():
            block = self._blocks.get()
            if not self.store.full(block):
                self.store.add(block)

    def _clock(self, seconds: float) -> Iterator[float]:
        start, next_snapshot = time.monotonic(), self.args.snapshot_from
        while (spent := time.monotonic() - start) < seconds:
            if self.args.snapshots and spent > next_snapshot:
                self.save_weights(f"snapshot-{next_snapshot:03.0f}", self.parameters)
                next_snapshot += self.args.snapshot_every
            yield spent / seconds

    def _set_rates(self, number: int, progress: float) -> None:
        warm = min(1.0, (number + 1) / 400)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        self.lr.fill_(self.args.lr * warm * (0.02 + 0.98 * cosine))

    def _bucket(self, rng: np.random.Generator, progress: float) -> int:
        """Short rows first, so that alignment appears; then nearly half of the steps are long."""
        if self.args.init or progress > 0.25:
            return int(rng.choice(4, p=[0.28, 0.27, 0.2, 0.25]))
        return int(rng.choice(4, p=[0.6, 0.3, 0.1, 0.0]))

    def _report(self, number: int, progress: float, step: Step) -> None:
        loss, ctc = step.losses.tolist()
        line = {
            "step": number, "progress": round(progress, 4), "bucket": step.bucket.name,
            "loss": round(loss, 4), "ctc": round(ctc, 4), "utterances": len(self.store),
        }  # fmt: skip
        print(json.dumps(line), file=self.log, flush=True)
        if number % 1000 == 0:
            print(line, flush=True)

    def save_weights(self, name: str, values: list[Tensor]) -> Path:
        """Write the model's weights (without the CTC head) as float32 safetensors."""
        from safetensors.torch import save_file

        names = [n for n, _ in self.model.named_parameters()]
        state = {
            n: v.detach().float().cpu().contiguous().clone()
            for n, v in zip(names, values, strict=False)
        }
        path = self.out / f"{name}.safetensors"
        save_file(state, path)
        return path

    def finish(self) -> None:
        """Keep the averaged weights as the model."""
        self.save_weights("model", self.averaged)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=sorted(tiny.SHAPES), default="base")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--processor", default="", help="folder of tokenizer files to keep")
    parser.add_argument("--init", default="", help="folder of weights to continue from")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ctc-until", type=float, default=0.7)
    parser.add_argument("--processes", type=int, default=12)
    parser.add_argument("--capacity", type=int, default=12_000_000_000, help="samples kept")
    parser.add_argument("--first-items", type=int, default=6000)
    parser.add_argument("--noise-s", type=int, default=1200)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--snapshots", action="store_true")
    parser.add_argument("--snapshot-from", type=float, default=60.0)
    parser.add_argument("--snapshot-every", type=float, default=10.0)
    return parser


def run(trainer_type: type[Trainer], args: argparse.Namespace) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    trainer = trainer_type(args, args.out)
    trainer.train()
    trainer.finish()


def main() -> None:
    run(Trainer, arguments().parse_args())


if __name__ == "__main__":
    main()
