"""A checkpoint folder of a published shape: random weights in bf16, a tokenizer as large as theirs.

    python -m tests.bench.checkpoint FOLDER --shape 1.7B

What a start has to read is all there, and as much of it: shards of at most 2.5 GB in the native
layout, the config, and a byte-level BPE with the published number of tokens and merges, whose
special tokens have the published ids. The end tokens' embeddings are zero, so that an answer runs
to its cap.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from predictor.model.checkpoint.weights import EMBEDDING, INDEX_FILE
from predictor.model.config import ModelConfig
from predictor.model.model import Model
from tests.bench.environment import ROOT
from tests.bench.shapes import SHAPES, fill_random, transformers_config

SHARD_BYTES = 2_500_000_000
TINY = ROOT / "predictor" / "checkpoints" / "tiny"
# Special tokens at their published distance from <|endoftext|>; others fill the places between.
SPECIAL = {
    0: "<|endoftext|>", 1: "<|im_start|>", 2: "<|im_end|>", 26: "<|audio_start|>",
    27: "<|audio_end|>", 33: "<|audio_pad|>", 61: "<asr_text>", 62: "<timestamp>",
}  # fmt: skip
LONGEST_TOKEN = 12  # bytes


def write_checkpoint(folder: Path, shape: str, *, max_shard_bytes: int = SHARD_BYTES) -> Path:
    """Write the checkpoint of a shape of `SHAPES` into `folder`, which is made."""
    config = SHAPES[shape]
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", _config(config))
    eos = list(config.eos_token_ids)
    generation = {"do_sample": False, "eos_token_id": eos, "pad_token_id": eos[0]}
    _write_json(folder / "generation_config.json", generation)
    _write_tokenizer(folder, first_special=config.eos_token_ids[0])
    _write_weights(folder, config, max_shard_bytes)
    return folder


def _config(config: ModelConfig) -> dict[str, Any]:
    shape: dict[str, Any] = transformers_config(config)
    shape["audio_config"] |= {"num_mel_bins": config.audio.num_mel_bins, "n_window": 50}
    shape["text_config"] |= {"rms_norm_eps": config.text.rms_norm_eps, "hidden_act": "silu"}
    names = {"architectures": ["Qwen3ASRForConditionalGeneration"], "model_type": "qwen3_asr"}
    if config.num_classes:
        names["architectures"] = ["Qwen3ASRForTokenClassification"]
        shape["num_labels"] = config.num_classes
        shape["timestamp_token_id"] = config.timestamp_token_id
    return names | shape | {"dtype": "bfloat16"}


def _write_weights(folder: Path, config: ModelConfig, max_shard_bytes: int) -> None:
    """Shard by shard, so that no more than one is in memory."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(0)
    model = Model.empty(config, device=torch.device("meta"), dtype=torch.bfloat16)
    shards = list(_shards(model.tensors(), max_shard_bytes))
    weight_map: dict[str, str] = {}
    for i, names in enumerate(shards, start=1):
        file = f"model-{i:05}-of-{len(shards):05}.safetensors"
        tensors = {}
        for name, like in names.items():
            weight = torch.empty(like.shape, dtype=like.dtype, device=device)
            fill_random(name, weight, generator)
            if name == EMBEDDING:
                weight[list(config.eos_token_ids)] = 0
            tensors[name] = weight.cpu()
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    total = sum(like.nbytes for names in shards for like in names.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    _write_json(folder / INDEX_FILE, index)


def _shards(tensors: dict[str, Tensor], max_bytes: int) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if shard and sum(t.nbytes for t in shard.values()) + tensor.nbytes > max_bytes:
            yield shard
            shard = {}
        shard[name] = tensor
    yield shard


def _write_tokenizer(folder: Path, first_special: int) -> None:
    """The embedded checkpoint's tokenizer with made-up merges, `first_special` tokens in all."""
    state = json.loads((TINY / "tokenizer.json").read_text("utf-8"))
    alphabet = sorted(token for token in state["model"]["vocab"] if len(token) == 1)
    tokens, merges = _merged(alphabet, first_special)
    state["model"]["vocab"] = {token: i for i, token in enumerate(tokens)}
    state["model"]["merges"] = [list(pair) for pair in merges]
    like = state["added_tokens"][0]
    state["added_tokens"] = [
        like | {"id": first_special + i, "content": SPECIAL.get(i, f"<|reserved_{i}|>")}
        for i in range(max(SPECIAL) + 1)
    ]
    _write_json(folder / "tokenizer.json", state)
    config = (TINY / "tokenizer_config.json").read_text("utf-8")
    (folder / "tokenizer_config.json").write_text(config, "utf-8")


def _merged(alphabet: list[str], size: int) -> tuple[list[str], list[tuple[str, str]]]:
    """`size` tokens, and for each but the alphabet's the two earlier ones that make it."""
    rng = random.Random(0)
    tokens, merges = list(alphabet), []
    known = set(tokens)
    while len(tokens) < size:
        pair = (rng.choice(tokens), rng.choice(tokens))
        token = "".join(pair)
        if len(token) <= LONGEST_TOKEN and token not in known:
            known.add(token)
            tokens.append(token)
            merges.append(pair)
    return tokens, merges


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.checkpoint", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", choices=list(SHAPES), default="1.7B")
    arguments = parser.parse_args()
    print(write_checkpoint(arguments.folder, arguments.shape))


if __name__ == "__main__":
    main()
