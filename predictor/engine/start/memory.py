"""How much fits: the cache's pages are planned at start from the memory the device has left."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from predictor.engine.options import EngineOptions
from predictor.engine.pages import PAGE_TOKENS
from predictor.engine.scheduler import MAX_CHECKS
from predictor.model.checkpoint.host_memory import free_host_bytes
from predictor.model.config import CHUNK_FRAMES, TOKENS_PER_CHUNK, ModelConfig, TextConfig
from predictor.model.encoder import CONV_BATCH_CHUNKS
from predictor.model.mel import FFT_SAMPLES

# From so much memory on the language model's head has a copy in 8 bits, see
# `model/cuda/small_head.py`. On cards of 24 GB its 0.3 GB are better used for pages.
HEAD_COPY_BYTES = 40 * 10**9


def plan_pages(
    text: TextConfig,
    options: EngineOptions,
    max_model_len: int,
    device: torch.device,
    dtype: torch.dtype,
    reserved: int = 0,
) -> int:
    """Pages of `PAGE_TOKENS` tokens: what `options.max_num_seqs` sequences of `max_model_len` can
    fill at most; ValueError if one of them does not fit.

    Called once the weights are loaded. The cache, of `dtype`, gets its fraction of what is free
    then, or all but the `reserved` bytes, whichever is less.
    """
    a_sequence = -(-max_model_len // PAGE_TOKENS)
    page = page_bytes(text, dtype)
    needed = (a_sequence + 1) * page  # and one for what fills a step up
    free = free_bytes(device)
    most = options.max_num_seqs * a_sequence
    if free is None:
        return most
    budget = min(int(free * options.kv_memory_fraction), free - reserved)
    if budget < needed:
        raise ValueError(
            f"one sequence of max_model_len {max_model_len} needs {needed / 2**20:.0f} MiB of "
            f"cache; of the {free / 2**20:.0f} MiB free on {device}, kv_memory_fraction "
            f"{options.kv_memory_fraction:g} and {reserved / 2**20:.0f} MiB for the work itself "
            f"(max_prefill_audio_s {options.max_prefill_audio_s:g}) leave {budget / 2**20:.0f} MiB"
        )
    return min(most, budget // page - 1)


def work_bytes(
    config: ModelConfig, options: EngineOptions, max_model_len: int, dtype: torch.dtype
) -> int:
    """What a full prefill step and a full decode step hold beside weights and cache, at most.

    The sum of what is alive at the widest places, although they are not reached at once: that
    leaves room for what an allocator wastes. `dtype` is the activations'.
    """
    audio, text = config.audio, config.text
    longest_s = max_model_len / TOKENS_PER_CHUNK  # one clip is taken whatever its length
    audio_s = math.ceil(max(options.max_prefill_audio_s, longest_s))
    num_tokens = max(options.max_prefill_tokens, max_model_len)
    num_tokens = min(num_tokens, audio_s * 2 * TOKENS_PER_CHUNK + max_model_len)
    spectrum = FFT_SAMPLES + 2 * (FFT_SAMPLES // 2 + 1) + 4 * audio.num_mel_bins
    features = audio_s * CHUNK_FRAMES * spectrum * torch.float32.itemsize
    pixels = audio.num_mel_bins // 2 * CHUNK_FRAMES // 2  # after the first convolution
    convolutions = min(CONV_BATCH_CHUNKS, audio_s) * pixels * audio.conv_channels * 3 // 2
    tower = audio_s * TOKENS_PER_CHUNK * (7 * audio.hidden_size + 2 * audio.ffn_size)
    heads = text.num_heads + 2 * text.num_kv_heads
    language = num_tokens * (
        3 * text.hidden_size + (heads + text.num_heads) * text.head_dim + 3 * text.ffn_size
    )
    logits = 2 * options.max_num_seqs * text.vocab_size
    return features + (convolutions + tower + language + logits) * dtype.itemsize


def cuda_work_bytes(
    config: ModelConfig, options: EngineOptions, max_model_len: int, dtype: torch.dtype
) -> int:
    """As `work_bytes` where steps are graphs, which have memory of their own beside what runs call
    by call; with the logits that drafts and forced tokens ask for."""
    checks = MAX_CHECKS * config.text.vocab_size * dtype.itemsize
    return 2 * (work_bytes(config, options, max_model_len, dtype) + checks)


def keeps_head_copy(device: torch.device) -> bool:
    """Whether the head gets a copy in 8 bits for the steps of few sequences."""
    return device.type == "cuda" and torch.cuda.mem_get_info(device)[1] >= HEAD_COPY_BYTES


def head_copy_bytes(text: TextConfig, device: torch.device, dtype: torch.dtype) -> int:
    """Of that copy, with what is known of each row."""
    if dtype == torch.float32 or not keeps_head_copy(device):
        return 0
    return text.vocab_size * (text.hidden_size + 3 * torch.float32.itemsize)


def page_bytes(text: TextConfig, dtype: torch.dtype) -> int:
    """Bytes of one page: keys and values, `dtype`, of every layer."""
    per_token = 2 * text.num_layers * text.num_kv_heads * text.head_dim * dtype.itemsize
    return per_token * PAGE_TOKENS


def free_bytes(device: torch.device) -> int | None:
    """Memory that is left on `device`; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_host_bytes(Path("/"))
