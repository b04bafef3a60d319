"""The whole model: audio tower and language model, and where each checkpoint tensor belongs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from predictor.model.attention import KvCache
from predictor.model.config import ModelConfig
from predictor.model.decoder import Decoder, DecoderLayer
from predictor.model.encoder import AudioEncoder, EncoderLayer


class Model(nn.Module):
    """Qwen3-ASR for inference: no gradients, no dropout."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = AudioEncoder(config.audio)
        self.decoder = Decoder(
            config.text, tied=config.tied_embeddings, num_classes=config.num_classes
        )

    @classmethod
    def empty(cls, config: ModelConfig, *, device: torch.device, dtype: torch.dtype) -> Model:
        """Weights allocated on `device` but not set: fill `tensors()`, then `finish_loading()`."""
        with _Unset(device, dtype):
            model = cls(config)
        return model.requires_grad_(False).eval()

    def finish_loading(self) -> None:
        """Compute the tables and layouts that no checkpoint holds."""
        self.encoder.finish_loading()
        self.decoder.finish_loading()

    @property
    def device(self) -> torch.device:
        return self.decoder.norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.decoder.norm.weight.dtype

    def new_cache(
        self, num_pages: int, page_tokens: int, dtype: torch.dtype | None = None
    ) -> KvCache:
        """A key/value cache of `num_pages` pages of `page_tokens` tokens.

        `dtype`: what it holds; None = what activations are.
        """
        text = self.config.text
        return KvCache(
            num_layers=text.num_layers,
            num_pages=num_pages,
            page_tokens=page_tokens,
            num_kv_heads=text.num_kv_heads,
            head_dim=text.head_dim,
            device=self.device,
            dtype=dtype or self.dtype,
        )

    def tensors(self) -> dict[str, Tensor]:
        """Native checkpoint name -> the part of our weights it fills, as a view."""
        return {name: tensor for _, tensors in self.parts() for name, tensor in tensors.items()}

    def parts(self) -> Iterator[tuple[nn.Module, dict[str, Tensor]]]:
        """The model in pieces that can be filled and finished one by one, with their `tensors()`.

        The largest, the embedding's, comes first: while it is worked on, memory is still empty.
        """
        head = "score" if self.config.num_classes else "lm_head"
        yield self.decoder, dict(_decoder(self.decoder, head))
        for i, layer in enumerate(self.decoder.layers):
            assert isinstance(layer, DecoderLayer)
            yield layer, dict(_decoder_layer(f"model.language_model.layers.{i}.", layer))
        yield self.encoder, dict(_encoder(self.encoder))
        for i, layer in enumerate(self.encoder.layers):
            assert isinstance(layer, EncoderLayer)
            yield layer, dict(_encoder_layer(f"model.audio_tower.layers.{i}.", layer))


def _decoder(decoder: Decoder, head: str) -> Iterator[tuple[str, Tensor]]:
    """What is not in its layers."""
    yield "model.language_model.embed_tokens.weight", decoder.embedding.weight
    yield "model.language_model.norm.weight", decoder.norm.weight
    if decoder.head is not None:
        yield f"{head}.weight", decoder.head.weight


def _encoder(encoder: AudioEncoder) -> Iterator[tuple[str, Tensor]]:
    """What is not in its layers."""
    tower = "model.audio_tower."
    for i, conv in enumerate((encoder.conv1, encoder.conv2, encoder.conv3), start=1):
        yield from _weight_and_bias(f"{tower}conv2d{i}", conv)
    yield f"{tower}conv_out.weight", encoder.conv_out.weight
    yield from _weight_and_bias(f"{tower}ln_post", encoder.norm)
    projector = "model.multi_modal_projector."
    yield from _weight_and_bias(f"{projector}linear_1", encoder.project_in)
    yield from _weight_and_bias(f"{projector}linear_2", encoder.project_out)


class _Unset(TorchFunctionMode):
    """Modules made inside are on `device`, in `dtype`, and not given the usual random values.

    Making them on the meta device first would do as well, but torch does much of that in Python:
    it would import sympy and half a compiler, which takes longer than all the rest.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self._where: dict[str, Any] = {"device": device, "dtype": dtype}

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = {name: value for name, value in (kwargs or {}).items() if value is not None}
        if func is torch.empty:
            return func(*args, **(self._where | given))
        if getattr(func, "__module__", "") == "torch.nn.init":
            return given["tensor"] if "tensor" in given else args[0]
        return func(*args, **(kwargs or {}))


def _weight_and_bias(name: str, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for part in ("weight", "bias"):
        yield f"{name}.{part}", module.get_parameter(part)


def _encoder_layer(prefix: str, layer: EncoderLayer) -> Iterator[tuple[str, Tensor]]:
    for part in ("weight", "bias"):
        thirds = layer.qkv.get_parameter(part).chunk(3)
        for name, third in zip(("q_proj", "k_proj", "v_proj"), thirds, strict=True):
            yield f"{prefix}self_attn.{name}.{part}", third
    yield from _weight_and_bias(f"{prefix}self_attn.out_proj", layer.attention_out)
    yield from _weight_and_bias(f"{prefix}self_attn_layer_norm", layer.attention_norm)
    yield from _weight_and_bias(f"{prefix}fc1", layer.ffn_in)
    yield from _weight_and_bias(f"{prefix}fc2", layer.ffn_out)
    yield from _weight_and_bias(f"{prefix}final_layer_norm", layer.ffn_norm)


def _decoder_layer(prefix: str, layer: DecoderLayer) -> Iterator[tuple[str, Tensor]]:
    config = layer.config
    sizes = [heads * config.head_dim for heads in _qkv_heads(layer)]
    parts = torch.split(layer.qkv.weight, sizes)
    for name, part in zip(("q_proj", "k_proj", "v_proj"), parts, strict=True):
        yield f"{prefix}self_attn.{name}.weight", part
    yield f"{prefix}self_attn.q_norm.weight", layer.query_norm
    yield f"{prefix}self_attn.k_norm.weight", layer.key_norm
    yield f"{prefix}self_attn.o_proj.weight", layer.attention_out.weight
    yield f"{prefix}input_layernorm.weight", layer.attention_norm.weight
    yield f"{prefix}post_attention_layernorm.weight", layer.ffn_norm.weight
    gate, up = layer.gate_up.weight.chunk(2)
    yield f"{prefix}mlp.gate_proj.weight", gate
    yield f"{prefix}mlp.up_proj.weight", up
    yield f"{prefix}mlp.down_proj.weight", layer.ffn_out.weight


def _qkv_heads(layer: DecoderLayer) -> tuple[int, int, int]:
    return layer.config.num_heads, layer.config.num_kv_heads, layer.config.num_kv_heads
