"""The two tiny architectures, and a fixed-shape training forward over transformers' parameters.

The parameters live in `Qwen3ASRForConditionalGeneration`, so `save_pretrained` writes the
format of the released checkpoints; only the forward is ours: padded windows instead of a loop
over windows, which a CUDA graph can capture. `test_tiny_training.py` holds it equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TOKENS_PER_CHUNK = 13  # audio tokens of one complete 1 s chunk
FRAMES_PER_CHUNK = 100
CHUNKS_PER_WINDOW = 8


@dataclass(frozen=True)
class Shape:
    """Sizes of one tiny model."""

    d_model: int
    encoder_layers: int
    encoder_heads: int
    encoder_ffn: int
    conv_channels: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    head_dim: int = 64


SHAPES = {
    "base": Shape(192, 5, 4, 768, 48, 256, 4, 4, 2, 640),
    "nano": Shape(144, 4, 3, 576, 32, 192, 3, 3, 1, 512),
}


def _config(shape: Shape, vocab: dict[str, int], vocab_size: int, **more: Any) -> Any:
    from transformers import Qwen3ASRConfig

    eos = [vocab["<|endoftext|>"], vocab["<|im_end|>"]]
    return Qwen3ASRConfig(
        audio_config={
            "model_type": "qwen3_asr_encoder",
            "num_mel_bins": 128,
            "d_model": shape.d_model,
            "encoder_layers": shape.encoder_layers,
            "encoder_attention_heads": shape.encoder_heads,
            "encoder_ffn_dim": shape.encoder_ffn,
            "downsample_hidden_size": shape.conv_channels,
            "output_dim": shape.hidden,
        },
        text_config={
            "model_type": "qwen3",
            "vocab_size": vocab_size,
            "hidden_size": shape.hidden,
            "intermediate_size": shape.ffn,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "head_dim": shape.head_dim,
            "max_position_embeddings": 8192,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "bos_token_id": None,
            "eos_token_id": vocab["<|im_end|>"],
            "pad_token_id": vocab["<|endoftext|>"],
        },
        audio_token_id=vocab["<|audio_pad|>"],
        timestamp_token_id=vocab["<timestamp>"],
        pad_token_id=vocab["<|endoftext|>"],
        eos_token_id=eos,
        tie_word_embeddings=True,
        **more,
    )


def build_aligner(shape: Shape, vocab: dict[str, int], vocab_size: int, num_classes: int) -> Any:
    """As `build`, a forced aligner: a class of time at each `<timestamp>`."""
    from transformers import Qwen3ASRForTokenClassification

    config = _config(shape, vocab, vocab_size, num_labels=num_classes)
    return Qwen3ASRForTokenClassification(config).to(torch.float32)


def build(shape: Shape, vocab: dict[str, int], vocab_size: int) -> Any:
    """A freshly initialised model of transformers; `vocab` maps added tokens to ids."""
    from transformers import Qwen3ASRForConditionalGeneration

    config = _config(shape, vocab, vocab_size)
    eos = config.eos_token_id

    model = Qwen3ASRForConditionalGeneration(config).to(torch.float32)
    model.generation_config.eos_token_id = eos
    model.generation_config.pad_token_id = vocab["<|endoftext|>"]
    model.generation_config.do_sample = False
    return model


def num_audio_tokens(num_frames: Tensor) -> Tensor:
    """Audio tokens of clips of `num_frames` mel frames (13 a second, the tail chunk rounded up)."""
    tail = num_frames % FRAMES_PER_CHUNK
    for _ in range(3):
        tail = torch.where(tail > 0, (tail - 1) // 2 + 1, tail)
    return tail + num_frames // FRAMES_PER_CHUNK * TOKENS_PER_CHUNK


def encode(model: Any, mel: Tensor, num_tokens: Tensor) -> Tensor:
    """Encoder states before the projector, [B, C * 13, d]; `mel` is [B, 128, C * 100].

    C is at most 8 or a multiple of 8. Positions past `num_tokens` [B] hold nothing of use.
    """
    tower = model.model.audio_tower
    B, bins, frames = mel.shape
    C = frames // FRAMES_PER_CHUNK
    chunks = mel.view(B, bins, C, FRAMES_PER_CHUNK).permute(0, 2, 1, 3)
    x = chunks.reshape(B * C, 1, bins, FRAMES_PER_CHUNK)
    x = x.contiguous(memory_format=torch.channels_last)
    x = F.gelu(tower.conv2d1(x))
    x = F.gelu(tower.conv2d2(x))
    x = F.gelu(tower.conv2d3(x))  # [B*C, channels, 16, 13]
    x = tower.conv_out(x.permute(0, 3, 1, 2).flatten(2))
    x = x + tower.positional_embedding.positional_embedding[:TOKENS_PER_CHUNK].to(x.dtype)

    W = max(1, C // CHUNKS_PER_WINDOW)
    T = C // W * TOKENS_PER_CHUNK  # tokens of a window
    x = x.reshape(B * W, T, -1)
    position = torch.arange(C * TOKENS_PER_CHUNK, device=mel.device)
    valid = (position < num_tokens[:, None]).view(B * W, 1, 1, T).clone()
    valid[..., 0] = True  # a window of padding attends to something, so that softmax stays finite
    for layer in tower.layers:
        attention = layer.self_attn
        h = layer.self_attn_layer_norm(x)
        q, k, v = (
            proj(h).view(B * W, T, attention.num_heads, -1).transpose(1, 2)
            for proj in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=valid)
        x = x + attention.out_proj(h.transpose(1, 2).flatten(2))
        h = layer.final_layer_norm(x)
        x = x + layer.fc2(F.gelu(layer.fc1(h)))
    return tower.ln_post(x).view(B, C * TOKENS_PER_CHUNK, -1)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    turned = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
    return x * cos + turned * sin


def _rms(x: Tensor, norm: nn.Module) -> Tensor:
    return F.rms_norm(x.float(), (x.shape[-1],), norm.weight, 1e-6).to(x.dtype)  # type: ignore[arg-type]


def decode(model: Any, ids: Tensor, audio: Tensor) -> Tensor:
    """Logits [B, L, V] of ids [B, L], their audio placeholders filled from `audio` [B, Ta, d];
    of an aligner, [B, L, classes]."""
    config = model.config.text_config
    lm = model.model.language_model
    is_audio = ids == model.config.audio_token_id
    features = model.model.multi_modal_projector(audio)
    index = (is_audio.cumsum(1) - 1).clamp(min=0, max=features.shape[1] - 1)
    filled = features.gather(1, index[..., None].expand(-1, -1, features.shape[2]))
    embedded = lm.embed_tokens(ids)
    x = torch.where(is_audio[..., None], filled.to(embedded.dtype), embedded)  # [B, L, D]

    B, L, _ = x.shape
    dim, heads, kv = config.head_dim, config.num_attention_heads, config.num_key_value_heads
    inv = 1.0 / (
        config.rope_parameters["rope_theta"]
        ** (torch.arange(0, dim, 2, device=ids.device).float() / dim)
    )
    angles = torch.arange(L, device=ids.device).float()[:, None] * inv
    cos, sin = (torch.cat([f, f], -1) for f in (angles.cos(), angles.sin()))
    for layer in lm.layers:
        attention = layer.self_attn
        h = _rms(x, layer.input_layernorm)
        q = _rms(attention.q_proj(h).view(B, L, heads, dim), attention.q_norm).transpose(1, 2)
        k = _rms(attention.k_proj(h).view(B, L, kv, dim), attention.k_norm).transpose(1, 2)
        v = attention.v_proj(h).view(B, L, kv, dim).transpose(1, 2)
        q, k = (_rotate(y.float(), cos, sin).to(v.dtype) for y in (q, k))
        k, v = (y.repeat_interleave(heads // kv, dim=1) for y in (k, v))
        h = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + attention.o_proj(h.transpose(1, 2).flatten(2))
        h = _rms(x, layer.post_attention_layernorm)
        x = x + layer.mlp.down_proj(F.silu(layer.mlp.gate_proj(h)) * layer.mlp.up_proj(h))
    head = model.score if hasattr(model, "score") else model.lm_head
    logits: Tensor = head(_rms(x, lm.norm))
    return logits


def save(model: Any, processor_dir: Path, out_dir: Path) -> None:
    """Write the model in bfloat16 with its processor files, readable by everyone (containers)."""
    import shutil

    out_dir.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(out_dir)
    for file in processor_dir.iterdir():
        shutil.copyfile(file, out_dir / file.name)
    for file in out_dir.iterdir():
        file.chmod(0o644)
