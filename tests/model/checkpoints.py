"""Random checkpoints written by transformers, their original-layout twins, and reference results.

Every weight is random, norms and biases too: with the constants of a fresh model, two swapped
norms would go unnoticed. transformers takes seconds to import: many processes of tests read this
file for its clips and shapes only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from predictor.types import EngineRequest, Samples

if TYPE_CHECKING:
    from transformers import Qwen3ASRConfig

EMBEDDED = Path(__file__).parents[2] / "predictor" / "checkpoints"
AUDIO_START, AUDIO_PAD, AUDIO_END, END = 200, 201, 202, 203  # ids of the random checkpoints


@dataclass(frozen=True)
class Shape:
    """What differs between the random checkpoints."""

    name: str
    encoder: tuple[int, int, int, int, int]  # width, layers, heads, ffn, conv channels
    window_frames: int
    text: tuple[int, int, int, int, int, int]  # width, layers, heads, kv heads, head dim, ffn
    rope_theta: float
    tied: bool


SHAPES = (
    Shape("grouped", (64, 2, 4, 128, 16), 800, (96, 3, 6, 2, 32, 160), 1e4, tied=True),
    Shape("untied", (48, 3, 3, 96, 8), 800, (64, 2, 4, 4, 16, 96), 1e6, tied=False),
    Shape("one key head", (32, 1, 2, 64, 12), 400, (80, 2, 4, 1, 64, 128), 1e6, tied=True),
)


def config_of(shape: Shape) -> Qwen3ASRConfig:
    """The transformers config of a shape; vocabulary of 204."""
    from transformers import Qwen3ASRConfig

    width, layers, heads, ffn, channels = shape.encoder
    hidden, text_layers, text_heads, kv_heads, head_dim, text_ffn = shape.text
    return Qwen3ASRConfig(
        audio_config={
            "d_model": width,
            "encoder_layers": layers,
            "encoder_attention_heads": heads,
            "encoder_ffn_dim": ffn,
            "downsample_hidden_size": channels,
            "n_window_infer": shape.window_frames,
            "output_dim": hidden,
        },
        text_config={
            "vocab_size": 204,
            "hidden_size": hidden,
            "num_hidden_layers": text_layers,
            "num_attention_heads": text_heads,
            "num_key_value_heads": kv_heads,
            "head_dim": head_dim,
            "intermediate_size": text_ffn,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": shape.tied,
            "rope_parameters": {"rope_theta": shape.rope_theta, "rope_type": "default"},
        },
        audio_token_id=AUDIO_PAD,
        eos_token_id=[END, 0],
        pad_token_id=0,
        tie_word_embeddings=shape.tied,
    )


def write_random(folder: Path, shape: Shape, seed: int = 0) -> Path:
    """A native checkpoint with random weights in `folder`."""
    from transformers import Qwen3ASRForConditionalGeneration

    generator = torch.Generator().manual_seed(seed)
    model = Qwen3ASRForConditionalGeneration(config_of(shape))
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        is_scale = name.endswith(("norm.weight", "ln_post.weight"))
        spread = 1.5 / weight[0].numel() ** 0.5 if weight.dim() > 1 else 0.1
        weight.data = 1.0 + 0.2 * noise if is_scale else spread * noise
    model.save_pretrained(folder)
    return folder


def reference_of(folder: Path) -> Any:
    """The checkpoint as transformers runs it."""
    from transformers import Qwen3ASRForConditionalGeneration

    model = Qwen3ASRForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def features_of(samples: Samples) -> tuple[torch.Tensor, torch.Tensor]:
    """transformers' features of one clip alone: [1, 128, frames] and the mask [1, frames]."""
    features = _extractor()(samples, padding=True, sampling_rate=16_000, return_attention_mask=True)
    return features["input_features"], features["attention_mask"]


@cache
def _extractor() -> Any:
    from transformers import Qwen3ASRFeatureExtractor

    return Qwen3ASRFeatureExtractor()


def reference_tokens(reference: Any, request: EngineRequest, num_audio_tokens: int) -> list[int]:
    """What transformers' greedy `generate` gives for a request alone, end token left out."""
    audio = [reference.config.audio_token_id] * num_audio_tokens
    prompt = torch.tensor([[*request.tokens_before, *audio, *request.tokens_after]])
    features, mask = features_of(request.samples)
    with torch.inference_mode():
        output = reference.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            input_features=features,
            input_features_mask=mask,
            max_new_tokens=request.max_new_tokens,
            do_sample=False,
        )
    tokens = output[0, prompt.shape[1] :].tolist()
    ends = set(reference.generation_config.eos_token_id)
    return [token for token in tokens if token not in ends]


def clip(duration_s: float, seed: int) -> Samples:
    """Noise through a slow random loudness: no two windows of it are alike."""
    rng = np.random.default_rng(seed)
    num_samples = int(duration_s * 16_000)
    loudness = np.interp(
        np.arange(num_samples),
        np.arange(0, num_samples + 4000, 4000),
        rng.random(len(np.arange(0, num_samples + 4000, 4000))),
    )
    return (0.3 * loudness * rng.standard_normal(num_samples)).astype(np.float32)


def write_original(
    native: Path, folder: Path, *, num_shards: int = 1, with_head: bool = True
) -> Path:
    """The same checkpoint in the original layout: `thinker.*` keys, nested config, noise fields."""
    folder.mkdir()
    _write_original_config(native, folder)
    tensors = {_original_name(k): v for k, v in load_file(native / "model.safetensors").items()}
    if with_head and "thinker.lm_head.weight" not in tensors:
        tensors["thinker.lm_head.weight"] = tensors["thinker.model.embed_tokens.weight"].clone()
    write_shards(folder, tensors, num_shards)
    return folder


def write_shards(folder: Path, tensors: dict[str, torch.Tensor], num_shards: int) -> None:
    """One model.safetensors, or several files with an index."""
    if num_shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return
    weight_map = {}
    for i in range(num_shards):
        file = f"model-{i + 1:05}-of-{num_shards:05}.safetensors"
        names = sorted(tensors)[i::num_shards]
        save_file({name: tensors[name] for name in names}, folder / file)
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _original_name(name: str) -> str:
    for native, original in (
        ("model.multi_modal_projector.linear_1.", "thinker.audio_tower.proj1."),
        ("model.multi_modal_projector.linear_2.", "thinker.audio_tower.proj2."),
        ("model.language_model.", "thinker.model."),
        ("lm_head.", "thinker.lm_head."),
        ("model.", "thinker."),
    ):
        if name.startswith(native):
            return original + name.removeprefix(native)
    raise AssertionError(name)


def _write_original_config(native: Path, folder: Path) -> None:
    config = json.loads((native / "config.json").read_text())
    text = config["text_config"]
    text["rope_theta"] = text.pop("rope_parameters")["rope_theta"]
    text["rope_scaling"] = {
        "mrope_interleaved": True, "mrope_section": [24, 20, 20],
        "rope_type": "default", "type": "default",
    }  # fmt: skip
    text |= {"num_experts": 128, "moe_intermediate_size": 768, "model_type": "qwen3_asr_text"}
    audio = config["audio_config"] | {"max_source_positions": 1500}
    audio.pop("max_position_embeddings")
    thinker = {
        "audio_config": audio,
        "text_config": text,
        "audio_token_id": config["audio_token_id"],
        "initializer_range": 0.02,
        "model_type": "qwen3_asr_thinker",
        "tie_word_embeddings": config["tie_word_embeddings"],
    }
    original = {"model_type": "qwen3_asr", "thinker_config": thinker, "support_languages": []}
    (folder / "config.json").write_text(json.dumps(original))
    generation = {"eos_token_id": config["eos_token_id"], "pad_token_id": config["pad_token_id"]}
    (folder / "generation_config.json").write_text(json.dumps(generation))


def embedded_names() -> Sequence[str]:
    """The shipped checkpoints that are in this tree."""
    return tuple(n for n in ("tiny", "tiny-early") if (EMBEDDED / n / "config.json").is_file())
