"""Checkpoints written for benchmarks are ones that the server loads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from predictor.model.checkpoint.weights import load_model
from predictor.model.config import ModelConfig
from predictor.text.prompt import PromptBuilder
from predictor.text.tokenizer import TextTokenizer
from tests.bench.checkpoint import write_checkpoint
from tests.bench.shapes import SHAPES


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("random"), "tiny", max_shard_bytes=300_000)


def test_it_has_the_shape_and_loads_from_its_shards(folder: Path) -> None:
    assert ModelConfig.from_folder(folder) == replace(SHAPES["tiny"], layout="native")
    model = load_model(folder, device="cpu", dtype=torch.bfloat16)
    assert all(weight.isfinite().all() for weight in model.tensors().values())
    assert len(list(folder.glob("*.safetensors"))) > 1
    embedding = model.decoder.embedding.weight
    assert not embedding[list(SHAPES["tiny"].eos_token_ids)].any()
    assert embedding[0].any()


def test_prompts_stay_below_the_vocabulary_and_every_id_decodes(folder: Path) -> None:
    config = SHAPES["tiny"]
    tokenizer = TextTokenizer.load(folder)
    prompt = PromptBuilder(tokenizer, 64).build("Zorvek 北京", "English")
    assert max(*prompt.tokens_before, *prompt.tokens_after) < config.text.vocab_size
    assert tokenizer.im_end in config.eos_token_ids
    assert tokenizer.added_tokens["<|audio_pad|>"] == config.audio_token_id
    for token_id in range(config.text.vocab_size):
        tokenizer.token_bytes(token_id)
    text = "打开灯 123, café"
    assert b"".join(map(tokenizer.token_bytes, tokenizer.encode_plain(text))).decode() == text
