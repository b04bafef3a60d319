"""What a device could do at best: the phases in sequence, each bound by arithmetic or by bytes.

Counted are the matrix products and attention of encoder, prefill and decode, the weights read once
a step, and the cache read once a step; activations, norms and the host cost nothing. Both ceilings
are measured on the device itself: a large matrix product and a large copy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from predictor.model.config import TOKENS_PER_CHUNK, ModelConfig
from tests.bench.load import TOKENS_PER_AUDIO_S
from tests.bench.parts import timed_ms

ITEM_BYTES = 2
PROMPT_TOKENS = 15  # around the audio, as in tests/bench/load.py


@dataclass(frozen=True)
class Device:
    """What a device achieves."""

    flops: float  # multiplications and additions per second, 16 bit
    bytes: float  # read and written per second

    def seconds(self, flops: float, num_bytes: float) -> float:
        return max(flops / self.flops, num_bytes / self.bytes)


def measure(device: torch.device) -> Device:
    """Both ceilings, on random data; a CPU gets small ones."""
    on_cuda = device.type == "cuda"
    size, dtype = (8192, torch.bfloat16) if on_cuda else (512, torch.float32)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    product_s = timed_ms(device, lambda: a @ b, 10) / 1e3
    source = torch.randn(2**30 if on_cuda else 2**22, device=device)
    target = torch.empty_like(source)
    copy_s = timed_ms(device, lambda: target.copy_(source), 10) / 1e3
    return Device(2 * size**3 / product_s, 2 * source.nbytes / copy_s)


class Limits:
    """Bounds for one model on one device."""

    def __init__(self, config: ModelConfig, device: Device) -> None:
        self._device = device
        audio, text = config.audio, config.text
        channels, bins = audio.conv_channels, audio.num_mel_bins
        taps = 9 * channels
        pixels = [bins // 2 * 50, bins // 4 * 25, bins // 8 * TOKENS_PER_CHUNK]
        convolutions = 2 * (pixels[0] * taps + (pixels[1] + pixels[2]) * taps * channels)
        hidden, output = audio.hidden_size, audio.output_size
        layer = 4 * hidden**2 + 2 * hidden * audio.ffn_size
        tower = audio.num_layers * layer + channels * bins // 8 * hidden
        self._tower = tower + hidden**2 + hidden * output
        window = audio.window_chunks * TOKENS_PER_CHUNK
        attention = audio.num_layers * 2 * window * hidden
        self._encoder_flops = convolutions + 2 * TOKENS_PER_CHUNK * (self._tower + attention)
        heads = text.num_heads + 2 * text.num_kv_heads
        inner = text.num_heads * text.head_dim
        per_layer = text.hidden_size * (heads * text.head_dim + inner + 3 * text.ffn_size)
        self._language = text.num_layers * per_layer
        self._head = text.vocab_size * text.hidden_size
        self._score_flops = 4 * text.num_layers * inner  # for each pair of tokens
        self._kv_bytes = 2 * text.num_layers * text.num_kv_heads * text.head_dim * ITEM_BYTES

    def _encode_s(self, duration_s: float) -> float:
        flops = self._encoder_flops * duration_s
        return self._device.seconds(flops, self._tower * ITEM_BYTES)

    def _prefill_s(self, num_tokens: float) -> float:
        pairs = num_tokens**2 / 2
        flops = 2 * (self._language * num_tokens + self._head) + self._score_flops * pairs
        return self._device.seconds(flops, (self._language + self._head) * ITEM_BYTES)

    def _step_s(self, context: float, batch: int) -> float:
        weights = self._language + self._head
        flops = batch * (2 * weights + self._score_flops * context)
        return self._device.seconds(flops, weights * ITEM_BYTES + batch * context * self._kv_bytes)

    def _tokens(self, duration_s: float) -> tuple[float, int]:
        prompt = TOKENS_PER_CHUNK * duration_s + PROMPT_TOKENS
        return prompt, math.ceil(duration_s * TOKENS_PER_AUDIO_S)

    def rtfx(self, duration_s: float, batch: int) -> float:
        """Of many clips, prefilled together so that weights cost nothing there."""
        prompt, num_new = self._tokens(duration_s)
        many = 64
        begin_s = self._encode_s(many * duration_s) / many
        pairs = self._score_flops * prompt**2 / 2
        begin_s += (2 * (self._language * prompt + self._head) + pairs) / self._device.flops
        step_s = self._step_s(prompt + num_new / 2, batch) / batch
        return duration_s / (begin_s + num_new * step_s)

    def first_token_s(self, duration_s: float) -> float:
        """Of one clip alone."""
        prompt, _ = self._tokens(duration_s)
        return self._encode_s(duration_s) + self._prefill_s(prompt)

    def last_token_s(self, duration_s: float) -> float:
        """Of one clip alone."""
        prompt, num_new = self._tokens(duration_s)
        step_s = self._step_s(prompt + num_new / 2, 1)
        return self.first_token_s(duration_s) + (num_new - 1) * step_s

    def of_rows(self, name: str, batch: int) -> dict[str, Any]:
        """The rows of the benchmark that have a bound."""
        return {
            f"{name} offline 30 s": self.rtfx(30.0, batch),
            f"{name} offline 10 s": self.rtfx(10.0, batch),
            f"{name} one 10 s clip": 1e3 * self.last_token_s(10.0),
            f"{name} one 30 s clip, first token": 1e3 * self.first_token_s(30.0),
        }
