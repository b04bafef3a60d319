"""Scores trained weights on the in-memory evaluation sets with transformers' own `generate`.

    python -m tests.tiny.evaluate --weights OUT/model.safetensors --shape base --processor DIR

Quick figures to steer the training; the figures of the model cards come from the served engine.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from . import model as tiny
from .evalset import EvalItem, make_sets
from .tokenizer import ADDED_TOKENS, VOCAB_SIZE


def units(text: str, language: str) -> list[str]:
    """What errors are counted in: lower-case words, or single characters of Chinese."""
    kept = re.sub(r"[^\w\s']", " ", text.lower())
    return list(re.sub(r"\s", "", kept)) if language == "Chinese" else kept.split()


def edits(reference: list[str], hypothesis: list[str]) -> tuple[int, int]:
    """(edit distance, insertions among them) of two unit lists."""
    row = [(j, j) for j in range(len(hypothesis) + 1)]
    for i, r in enumerate(reference, 1):
        new = [(i, 0)]
        for j, h in enumerate(hypothesis, 1):
            match = (row[j - 1][0] + (r != h), row[j - 1][1])
            drop = (row[j][0] + 1, row[j][1])
            insert = (new[j - 1][0] + 1, new[j - 1][1] + 1)
            new.append(min(match, drop, insert))
        row = new
    return row[-1]


def transcribe(
    model: Any, processor: Any, items: list[EvalItem], batch: int = 64
) -> list[tuple[str | None, str]]:
    """(language, text) of each item, greedy."""
    order = sorted(range(len(items)), key=lambda i: len(items[i].audio))
    answers: dict[int, tuple[str | None, str]] = {}
    for at in range(0, len(order), batch):
        part = order[at : at + batch]
        inputs = processor.apply_transcription_request(
            [items[i].audio for i in part],
            prompt=[items[i].context for i in part],
        ).to(model.device)
        longest = max(len(items[i].audio) for i in part) / 16_000
        with torch.inference_mode():
            out = model.generate(**inputs, max_new_tokens=int(12 * longest) + 24, do_sample=False)
        texts = processor.tokenizer.batch_decode(
            out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        for i, raw in zip(part, texts, strict=True):
            head, _, text = raw.partition("<asr_text>")
            answers[i] = (head.removeprefix("language ").strip() or None, text.strip())
    return [answers[i] for i in range(len(items))]


def score(items: list[EvalItem], answers: list[tuple[str | None, str]]) -> dict[str, float]:
    """Error rate by language in percent, language accuracy, insertions, exact hot words."""
    result: dict[str, float] = {}
    for language in ("English", "Chinese"):
        wrong = extra = total = 0
        for item, (_, text) in zip(items, answers, strict=True):
            if item.language == language:
                reference = units(item.text, language)
                distance, inserted = edits(reference, units(text, language))
                wrong, extra, total = wrong + distance, extra + inserted, total + len(reference)
        if total:
            result[f"{language} error %"] = round(100 * wrong / total, 2)
            result[f"{language} insertions %"] = round(100 * extra / total, 2)
    right = [(a[0] or "None") == i.language for i, a in zip(items, answers, strict=True)]
    result["language right %"] = round(100 * float(np.mean(right)), 2)
    names = [
        i.hotword.lower() in a[1].lower() for i, a in zip(items, answers, strict=True) if i.hotword
    ]
    if names:
        result["hot words %"] = round(100 * float(np.mean(names)), 2)
    empty = [not a[1] for i, a in zip(items, answers, strict=True) if i.language == "None"]
    if empty:
        result["empty %"] = round(100 * float(np.mean(empty)), 2)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, nargs="+", required=True)
    parser.add_argument("--shape", choices=sorted(tiny.SHAPES), required=True)
    parser.add_argument("--processor", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--count", type=int, default=100, help="utterances a set")
    parser.add_argument("--sets", nargs="*", help="names of sets; all where left out")
    parser.add_argument("--examples", type=int, default=0, help="wrong answers to print a set")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(args.processor)
    sets = make_sets(7, args.count)
    rows = []
    for path in args.weights:
        model = tiny.build(tiny.SHAPES[args.shape], ADDED_TOKENS, VOCAB_SIZE)
        model.load_state_dict(load_file(path), strict=False)
        model.tie_weights()
        model = model.to(args.device).eval()
        for name in args.sets or sets:
            answers = transcribe(model, processor, sets[name])
            row = {"weights": path.name, "set": name, **score(sets[name], answers)}
            rows.append(row)
            print(json.dumps(row), flush=True)
            wrong = [
                (i.language, i.context, i.text, *a)
                for i, a in zip(sets[name], answers, strict=True)
                if units(i.text, i.language) != units(a[1], i.language)
            ]
            for example in wrong[: args.examples]:
                print("   ", example)
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
