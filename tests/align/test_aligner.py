"""The aligner's classes and times, against transformers' own model and decoding."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, Qwen3ASRForTokenClassification

from predictor.align.model import Aligner
from predictor.align.passes import Marked
from predictor.align.words import monotonic, split_words
from predictor.model.config import CheckpointError
from predictor.types import Samples

ROOT = Path(__file__).parents[2]
TINY = ROOT / "predictor" / "checkpoints" / "tiny-aligner"
DATA = ROOT / "tests" / "data" / "eval"
CLIPS = ("en-short-000", "en-short-013", "zh-short-024", "en-long-001", "zh-long-002")


def clips() -> list[tuple[Samples, str, str]]:
    rows = {}
    for line in (DATA / "manifest.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        rows[row["audio"]] = row
    found = []
    for name in CLIPS:
        row = rows[f"{name}.opus"]
        samples, _ = soundfile.read(DATA / row["audio"], dtype="float32")
        found.append((samples, row["text"], row["language"]))
    return found


@pytest.fixture(scope="module")
def aligner() -> Aligner:
    return Aligner(TINY, device="cpu", dtype=torch.float32)


def expected_times(folder: Path, samples: Samples, text: str) -> list[dict[str, float]]:
    processor = AutoProcessor.from_pretrained(folder)
    model = Qwen3ASRForTokenClassification.from_pretrained(folder, dtype=torch.float32).eval()
    inputs, words = processor.prepare_forced_aligner_inputs(samples, text)
    with torch.inference_mode():
        logits = model(**inputs).logits
    mark = model.config.timestamp_token_id
    [times] = processor.decode_forced_alignment(logits, inputs["input_ids"], words, mark)
    return list(times)


def test_times_equal_those_of_transformers(aligner: Aligner) -> None:
    batch = clips()
    marked = [Marked(samples, tuple(split_words(text, lang))) for samples, text, lang in batch]
    together = aligner.begin(marked).result()
    for item, times, (samples, text, _) in zip(marked, together, batch, strict=True):
        repaired = monotonic((1000 * times).ravel().round().tolist())
        expected = expected_times(TINY, samples, text)
        assert [word["text"] for word in expected] == list(item.words)
        starts_ends = [[word["start_time"], word["end_time"]] for word in expected]
        ours = np.array([int(ms) for ms in repaired]).reshape(-1, 2) / 1000
        np.testing.assert_array_equal(ours, starts_ends)


def test_batch_mates_do_not_matter(aligner: Aligner) -> None:
    marked = [Marked(samples, tuple(split_words(text, lang))) for samples, text, lang in clips()]
    together = aligner.begin(marked).result()
    for item, times in zip(marked, together, strict=True):
        np.testing.assert_array_equal(aligner.begin([item]).result()[0], times)


def test_the_original_layout_reads_the_same(tmp_path: Path, aligner: Aligner) -> None:
    """Names and config as the authors published the aligner, before it had a native layout."""
    renamed = {}
    for name, tensor in load_file(TINY / "model.safetensors").items():
        for new, old in (
            ("score.", "thinker.lm_head."),
            ("model.language_model.", "thinker.model."),
            ("model.multi_modal_projector.linear_1.", "thinker.audio_tower.proj1."),
            ("model.multi_modal_projector.linear_2.", "thinker.audio_tower.proj2."),
            ("model.", "thinker."),
        ):
            if name.startswith(new):
                renamed[old + name.removeprefix(new)] = tensor
                break
    assert len(renamed) == len(load_file(TINY / "model.safetensors"))
    save_file(renamed, tmp_path / "model.safetensors")
    config = json.loads((TINY / "config.json").read_text())
    thinker = {k: config[k] for k in ("audio_config", "text_config", "audio_token_id")}
    thinker["classify_num"] = config["num_labels"]
    original = {
        "architectures": ["Qwen3ASRForConditionalGeneration"],
        "thinker_config": thinker,
        "timestamp_token_id": config["timestamp_token_id"],
        "timestamp_segment_time": 40,
        "eos_token_id": config["eos_token_id"],
    }
    (tmp_path / "config.json").write_text(json.dumps(original))
    (tmp_path / "tokenizer.json").write_bytes((TINY / "tokenizer.json").read_bytes())
    same = Aligner(tmp_path, device="cpu", dtype=torch.float32)
    [(samples, text, language), *_] = clips()
    item = Marked(samples, tuple(split_words(text, language)))
    np.testing.assert_array_equal(same.begin([item]).result()[0], aligner.begin([item]).result()[0])


def test_a_recogniser_is_no_aligner() -> None:
    with pytest.raises(CheckpointError, match="not an aligner"):
        Aligner(TINY.parent / "tiny", device="cpu", dtype=torch.float32)
