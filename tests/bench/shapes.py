"""Models of the published shapes with random weights, made where they run."""

from __future__ import annotations

import torch

from predictor.model.config import AudioConfig, ModelConfig, TextConfig
from predictor.model.model import Model

VOCAB = 151_936


def _config(
    encoder: tuple[int, int, int, int, int],
    text: tuple[int, int, int, int, int, int, int],
    vocab_size: int,
) -> ModelConfig:
    """encoder: layers, heads, width, ffn, channels; text: layers, heads, kv heads, head width,
    width, ffn, positions."""
    return ModelConfig(
        layout="native",
        audio=AudioConfig(
            num_mel_bins=128,
            num_layers=encoder[0],
            num_heads=encoder[1],
            hidden_size=encoder[2],
            ffn_size=encoder[3],
            conv_channels=encoder[4],
            window_chunks=8,
            output_size=text[4],
        ),
        text=TextConfig(
            vocab_size=vocab_size,
            num_layers=text[0],
            num_heads=text[1],
            num_kv_heads=text[2],
            head_dim=text[3],
            hidden_size=text[4],
            ffn_size=text[5],
            max_positions=text[6],
            rms_norm_eps=1e-6,
            rope_theta=1e6,
        ),
        audio_token_id=vocab_size - 260,
        eos_token_ids=(vocab_size - 293, vocab_size - 291),
        tied_embeddings=True,
    )


SHAPES = {
    "1.7B": _config((24, 16, 1024, 4096, 480), (28, 16, 8, 128, 2048, 6144, 65_536), VOCAB),
    "0.6B": _config((18, 14, 896, 3584, 480), (28, 16, 8, 128, 1024, 3072, 65_536), VOCAB),
    "tiny": _config((2, 2, 64, 128, 16), (2, 4, 2, 32, 96, 160, 4096), 600),
}


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
