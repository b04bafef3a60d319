"""Models of the published shapes with random weights, made where they run."""

from __future__ import annotations

from dataclasses import replace

import torch

from predictor.model.checkpoint.published import PUBLISHED
from predictor.model.config import AudioConfig, ModelConfig, TextConfig
from predictor.model.model import Model

# As small as a model can be that still has every part.
_TINY = ModelConfig(
    layout="native",
    audio=AudioConfig(
        num_mel_bins=128,
        num_layers=2,
        num_heads=2,
        hidden_size=64,
        ffn_size=128,
        conv_channels=16,
        window_chunks=8,
        output_size=96,
    ),
    text=TextConfig(
        vocab_size=600,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=32,
        hidden_size=96,
        ffn_size=160,
        max_positions=4096,
        rms_norm_eps=1e-6,
        rope_theta=1e6,
    ),
    audio_token_id=340,
    eos_token_ids=(307, 309),
    tied_embeddings=True,
)
# Qwen3-ForcedAligner-0.6B: the encoder of 1.7B before the language model of 0.6B, and a head that
# tells times of 80 ms.
_ALIGNER = replace(
    PUBLISHED["0.6B"],
    audio=replace(PUBLISHED["1.7B"].audio, output_size=PUBLISHED["0.6B"].text.hidden_size),
    num_classes=5000,
    timestamp_token_id=PUBLISHED["0.6B"].eos_token_ids[0] + 62,
)
_TINY_ALIGNER = replace(_TINY, num_classes=800, timestamp_token_id=_TINY.eos_token_ids[0] + 62)
SHAPES = PUBLISHED | {"tiny": _TINY, "aligner": _ALIGNER, "tiny aligner": _TINY_ALIGNER}


def random_model(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> Model:
    """Normal weights that keep the size of what passes; norms near 1."""
    model = Model.empty(config, device=device, dtype=dtype)
    generator = torch.Generator(device).manual_seed(0)
    for name, weight in model.tensors().items():
        fill_random(name, weight, generator)
    model.finish_loading()
    return model


def fill_random(name: str, weight: torch.Tensor, generator: torch.Generator) -> None:
    """The values of one tensor, by its native name."""
    is_scale = ("norm" in name and name.endswith("weight")) or name.endswith("ln_post.weight")
    if is_scale:
        weight.normal_(1.0, 0.1, generator=generator)
    elif weight.dim() == 1:
        weight.normal_(0.0, 0.02, generator=generator)
    else:
        weight.normal_(0.0, 0.5 / weight[0].numel() ** 0.5, generator=generator)


def transformers_config(config: ModelConfig) -> dict[str, object]:
    """The same shape as keyword arguments of transformers' Qwen3ASRConfig."""
    audio, text = config.audio, config.text
    return {
        "audio_config": {
            "d_model": audio.hidden_size,
            "encoder_layers": audio.num_layers,
            "encoder_attention_heads": audio.num_heads,
            "encoder_ffn_dim": audio.ffn_size,
            "downsample_hidden_size": audio.conv_channels,
            "n_window_infer": audio.window_chunks * 100,
            "output_dim": audio.output_size,
        },
        "text_config": {
            "vocab_size": text.vocab_size,
            "hidden_size": text.hidden_size,
            "num_hidden_layers": text.num_layers,
            "num_attention_heads": text.num_heads,
            "num_key_value_heads": text.num_kv_heads,
            "head_dim": text.head_dim,
            "intermediate_size": text.ffn_size,
            "max_position_embeddings": text.max_positions,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_theta": text.rope_theta, "rope_type": "default"},
        },
        "audio_token_id": config.audio_token_id,
        "eos_token_id": list(config.eos_token_ids),
        "pad_token_id": config.eos_token_ids[0],
        "tie_word_embeddings": True,
    }
