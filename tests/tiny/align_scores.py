"""Errors of word times on the evaluation set, through transformers' own aligner and decoding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .words import clean_word


def evaluate(folder: Path, data: Path, *, max_duration_s: float = 31.0) -> dict[str, Any]:
    """Median and 95th percentile of |error| of starts and ends, seconds, by language."""
    import soundfile
    from transformers import AutoProcessor, Qwen3ASRForTokenClassification

    processor = AutoProcessor.from_pretrained(folder)
    model = Qwen3ASRForTokenClassification.from_pretrained(folder, dtype=torch.float32).eval()
    errors: dict[str, list[tuple[float, float]]] = {}
    for line in (data / "words.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        audio, _ = soundfile.read(data / row["audio"], dtype="float32")
        if len(audio) > max_duration_s * 16_000:
            continue
        spoken = [word for word in row["words"] if clean_word(word["word"])]
        if not spoken:
            continue
        joiner = " " if row["language"] == "English" else ""
        text = joiner.join(word["word"] for word in spoken)
        inputs, words = processor.prepare_forced_aligner_inputs(audio, text)
        if len(words[0]) != len(spoken):
            continue
        with torch.inference_mode():
            logits = model(**inputs).logits
        [times] = processor.decode_forced_alignment(
            logits, inputs["input_ids"], words, model.config.timestamp_token_id
        )
        kind = "long" if "long" in row["audio"] else "short"
        errors.setdefault(f"{row['language']} {kind}", []).extend(
            (abs(t["start_time"] - w["start_s"]), abs(t["end_time"] - w["end_s"]))
            for t, w in zip(times, spoken, strict=True)
        )
    return {
        name: {
            "words": len(rows),
            "start_median_s": round(float(np.median([s for s, _ in rows])), 4),
            "start_p95_s": round(float(np.quantile([s for s, _ in rows], 0.95)), 4),
            "end_median_s": round(float(np.median([e for _, e in rows])), 4),
            "end_p95_s": round(float(np.quantile([e for _, e in rows], 0.95)), 4),
        }
        for name, rows in errors.items()
    }
