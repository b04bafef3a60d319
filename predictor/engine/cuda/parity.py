"""Each fused kernel against its plain twin, on small random inputs of a model's own shapes.

Run at start on the device that will serve, and by the tests.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from predictor.model.attention import (
    FP8,
    TILE_TOKENS,
    KvCache,
    Packing,
    Prefix,
    packed_attention,
    prompt_tiles,
    write_places,
)
from predictor.model.cuda import decoder as fused
from predictor.model.cuda import tiled
from predictor.model.cuda.decoder import PAGE_TOKENS, Fusion
from predictor.model.cuda.encoder import encoder_difference
from predictor.model.cuda.mel import DeviceLogMel
from predictor.model.cuda.quantized import Fp8Linear, quantize_fp8_rows
from predictor.model.cuda.small_batch import small_batch_difference
from predictor.model.cuda.small_head import small_head_difference
from predictor.model.cuda.step import ends_difference
from predictor.model.decoder import Decoder, DecoderLayer
from predictor.model.model import Model

logger = logging.getLogger(__name__)

NUM_ROWS = 3
MAX_LENGTH = 160
# Of what is written to the cache; the larger one is beyond the range of an 8-bit cache.
VALUE_SIZES = (1.0, 1000.0)
# Largest |difference| / |plain|, over all elements together.
TOLERANCE = {torch.float32: 5e-5, torch.float16: 5e-3, torch.bfloat16: 2e-2}

# Of rows in 8 bits: one last bit of a row's peak moves its scale, and many values by a step. And of
# an 8-bit cache, where values that differ by d = 2e-2 come to lie on both sides of a boundary: a
# share d / step of them is a step apart, all together sqrt(d * step), and a step is 1/8 at most.
ROWS_TOLERANCE = 5e-2

Check: TypeAlias = Callable[[Fusion, Decoder], float]


def checked(fusion: Fusion, model: Model, kv_dtype: torch.dtype | None = None) -> Fusion:
    """`fusion` without the kernels that fail on this device or differ from their plain twins.

    `kv_dtype`: what the cache holds; None = what activations are.
    """
    kv_dtype = kv_dtype or model.dtype
    for name, error in kernel_errors(fusion, model, kv_dtype).items():
        logger.error("kernel %s is not used: %s", name, error)
        if name == "attention":
            fusion = replace(fusion, attention="masked")
        else:
            off: dict[str, Any] = {name: False}
            fusion = replace(fusion, **off)
    return fusion


@torch.inference_mode()
def kernel_errors(
    fusion: Fusion, model: Model, kv_dtype: torch.dtype | None = None
) -> dict[str, str]:
    """What is wrong with the kernels that `fusion` asks for: its field -> the reason."""
    decoder, kv = model.decoder, kv_dtype or model.dtype
    checks: dict[str, Check] = {}
    checks |= {"norm": _norm} if fusion.norm else {}
    checks |= {"rope": lambda _, decoder: _rope(decoder, kv)} if fusion.rope else {}
    checks |= {"swiglu": _swiglu} if fusion.swiglu else {}
    has_rows = fusion.rows and is_fp8(decoder) and decoder.norm.weight.is_cuda
    checks |= {"rows": _rows} if has_rows else {}
    checks |= {"head": _head} if fusion.head else {}
    checks |= {"ends": lambda _, decoder: ends_difference(decoder)} if fusion.ends else {}
    if fusion.small_batch:
        checks["small_batch"] = lambda _, decoder: small_batch_difference(decoder, kv)
    if fusion.tiled and tiled.fits(decoder):
        for num_rows in tiled.TRIED:  # kernels of their own, compiled at the same time
            checks[f"tiled {num_rows}"] = partial(_tiled, num_rows, kv)
    checks |= {"encoder": lambda *_: encoder_difference(model.encoder)} if fusion.encoder else {}
    checks |= {"features": lambda *_: _features(model)} if fusion.features else {}
    is_16_bit = decoder.norm.weight.dtype != torch.float32
    has_head = fusion.head_8_bit and is_16_bit and (fusion.small_batch or fusion.tiled)
    checks |= {"head_8_bit": lambda _, decoder: small_head_difference(decoder)} if has_head else {}
    has_prefill = fusion.prefill and is_16_bit
    checks |= {"prefill": lambda _, decoder: _prefill(decoder, kv)} if has_prefill else {}
    if fusion.attention != "masked":
        checks |= {"attention": lambda fusion, decoder: _attention(fusion, decoder, kv)}
    if fusion.attention != "masked" and fusion.shared:
        checks |= {"shared": lambda fusion, decoder: _shared(fusion, decoder, kv)}
    errors = {}
    for check, difference in _run_all(checks, fusion, decoder).items():
        name = check.partition(" ")[0]
        tolerance = TOLERANCE[decoder.norm.weight.dtype]
        if name == "rows" or (name in ("small_batch", "tiled") and (is_fp8(decoder) or kv == FP8)):
            tolerance = ROWS_TOLERANCE
        if isinstance(difference, Exception):
            errors[name] = f"{type(difference).__name__}: {difference}"
        elif not difference <= tolerance:  # NaN fails too
            errors[name] = f"relative difference {difference:.1e}, at most {tolerance:.0e} is fine"
    return errors


def _tiled(num_rows: int, kv_dtype: torch.dtype, _: Fusion, decoder: Decoder) -> float:
    return tiled.tiled_difference(decoder, kv_dtype, num_rows)


def _run_all(
    checks: dict[str, Check], fusion: Fusion, decoder: Decoder
) -> dict[str, float | Exception]:
    """What each check gives or raises. On CUDA they compile at the same time, the first one alone:
    it sets up the compiler. Elsewhere one after the other, also where tensors only pretend to be on
    a device: that pretence is the calling thread's."""
    is_inference = torch.is_inference_mode_enabled()  # each thread has its own mode, and device

    def run(check: Check) -> float | Exception:
        device = decoder.norm.weight.device
        current = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
        try:
            with current, torch.inference_mode(is_inference):
                return check(fusion, decoder)
        except Exception as error:  # noqa: BLE001  a compiler can fail in any way
            return error

    if decoder.norm.weight.device.type != "cuda":
        return {name: run(check) for name, check in checks.items()}
    results: dict[str, float | Exception] = {}
    with ThreadPoolExecutor(max(1, len(checks)), "kernels") as pool:
        for name in list(checks)[:1]:
            results[name] = run(checks[name])
        rest = {
            name: pool.submit(run, check) for name, check in checks.items() if name not in results
        }
        return results | {name: future.result() for name, future in rest.items()}


def difference(ours: Tensor, plain: Tensor) -> float:
    """Relative distance of two tensors, in float64."""
    a, b = ours.double(), plain.double()
    return float((a - b).norm() / b.norm())


def _worst(*differences: float) -> float:
    """The largest; NaN where one is, which `max` may pass over."""
    return float(np.max(differences))


def _random(decoder: Decoder, *shape: int) -> Tensor:
    weight = decoder.norm.weight
    return torch.randn(shape, device=weight.device).to(weight.dtype)


def _norm(fusion: Fusion, decoder: Decoder) -> float:
    kernels, eps = fused._kernels(), decoder.config.rms_norm_eps
    x, add = (_random(decoder, NUM_ROWS, decoder.config.hidden_size) for _ in range(2))
    twin = x.clone()
    ours = kernels.add_rms_norm(x, add, decoder.norm.weight, eps)
    plain = fused.plain_add_rms_norm(twin, add, decoder.norm.weight, eps)
    first = kernels.add_rms_norm(x, None, decoder.norm.weight, eps)
    return _worst(difference(ours, plain), difference(x, twin), difference(first, plain))


def _rope(decoder: Decoder, kv_dtype: torch.dtype) -> float:
    return _worst(*(_rope_of(size, decoder, kv_dtype) for size in VALUE_SIZES))


def _rope_of(size: float, decoder: Decoder, kv_dtype: torch.dtype) -> float:
    """Heads against the twin's; the cache against what torch writes of the same heads, which is
    equal to the bit: of the twin's, 8 bits would round what hardly differs to both sides."""
    config, layer = decoder.config, decoder.layers[0]
    assert isinstance(layer, DecoderLayer)
    weight = decoder.norm.weight
    num_heads = config.num_heads + 2 * config.num_kv_heads
    qkv = size * _random(decoder, NUM_ROWS, num_heads, config.head_dim)
    positions = torch.tensor([0, 7, MAX_LENGTH - 1], device=weight.device)
    places = torch.tensor([5, 0, 2], device=weight.device)
    everywhere = decoder.rotation(torch.arange(MAX_LENGTH, device=weight.device))
    half = config.head_dim // 2
    table = (everywhere.cos[:, 0, :half].contiguous(), everywhere.sin[:, 0, half:].contiguous())
    cache = torch.zeros(2, 6, config.num_kv_heads, config.head_dim).to(weight.device, kv_dtype)
    expected = torch.zeros_like(cache)
    ours, plain, eps = qkv.clone(), qkv.clone(), config.rms_norm_eps
    pair, plain_pair = (cache[0], cache[1]), (expected[0], expected[1])
    fused._kernels().norm_rope_write(ours, layer.qk_norm, table, positions, places, pair, eps)
    rotation = decoder.rotation(positions)
    fused.plain_norm_rope_write(plain, layer.qk_norm, rotation, places, plain_pair, eps)
    key_value = ours[:, config.num_heads :].chunk(2, dim=1)
    for part, values in zip(plain_pair, key_value, strict=True):
        write_places(part, places, values)
    return _worst(difference(ours, plain), difference(cache, expected))


def _swiglu(fusion: Fusion, decoder: Decoder) -> float:
    x = _random(decoder, NUM_ROWS, 2 * decoder.config.ffn_size)
    return difference(fused._kernels().swiglu(x), fused.plain_swiglu(x))


def is_fp8(decoder: Decoder) -> bool:
    """Some linear layer takes 8-bit rows."""
    return any(isinstance(module, Fp8Linear) for module in decoder.modules())


def _rows(fusion: Fusion, decoder: Decoder) -> float:
    from predictor.model.cuda.kernels import quantized as kernels  # Triton

    eps = decoder.config.rms_norm_eps
    x, add = (_random(decoder, NUM_ROWS, decoder.config.hidden_size) for _ in range(2))
    gate_up = _random(decoder, NUM_ROWS, 2 * decoder.config.ffn_size)
    twin = x.clone()
    normed = fused.plain_add_rms_norm(twin, add, decoder.norm.weight, eps)
    results = [
        (kernels.add_rms_norm_quantized(x, add, decoder.norm.weight, eps), normed),
        (kernels.add_rms_norm_quantized(x, None, decoder.norm.weight, eps), normed),
        (kernels.swiglu_quantized(gate_up), fused.plain_swiglu(gate_up)),
    ]
    differences = [difference(x, twin)]
    for (values, scale), plain in results:
        rows, row_scale = quantize_fp8_rows(plain)
        differences.append(difference(values.float() * scale, rows.float() * row_scale))
    return _worst(*differences)


def _head(fusion: Fusion, decoder: Decoder) -> float:
    logits = 3 * _random(decoder, NUM_ROWS, decoder.config.vocab_size)
    logits[0, 11] = logits[0, decoder.config.vocab_size - 1] = 30.0  # equals: the first one wins
    tokens, logprobs = fused._kernels().choose(logits)
    plain_tokens, plain_logprobs = fused.plain_choose(logits)
    if not torch.equal(tokens, plain_tokens):
        return float("inf")
    spoilt = logits.clone()
    spoilt[1, 3] = float("nan")
    if not fused._kernels().choose(spoilt)[1][1].isnan():
        return float("inf")
    return difference(logprobs[1:], plain_logprobs[1:])


def _features(model: Model) -> float:
    """On clips whose ends fall before, at and after a second's."""
    rng = np.random.default_rng(0)
    clips = [rng.standard_normal(size, dtype=np.float32) for size in (5_000, 16_000, 17_001)]
    num_mel_bins = model.config.audio.num_mel_bins
    ours, plain = (
        DeviceLogMel(num_mel_bins, device=model.device, use_kernels=use)(clips).chunks
        for use in (True, False)
    )
    return difference(ours, plain)


def _prefill(decoder: Decoder, kv_dtype: torch.dtype) -> float:
    """On prompts that end before, at and after a tile's end, with much and little in the cache."""
    config, weight = decoder.config, decoder.norm.weight
    lengths, cached = [1, TILE_TOKENS, MAX_LENGTH, TILE_TOKENS + 1], [MAX_LENGTH, 0, 1, 64]
    cache, tables = _random_cache(decoder, kv_dtype)
    heads = [config.num_heads, config.num_kv_heads, config.num_kv_heads]
    qkv = _random(decoder, sum(lengths), sum(heads), config.head_dim)
    query, key, value = torch.split(qkv, heads, dim=1)
    tiles = torch.from_numpy(prompt_tiles(lengths, cached, [3, 1, 0, 4])).to(weight.device)
    pair = fused.paged(cache, 0)
    ours = fused._prefill_attention(query, key, value, tiles, pair, tables)
    pages = [tables[slot].tolist() for slot in (3, 1, 0, 4)]
    prefix = Prefix.of(pages, cached, lengths, PAGE_TOKENS, device=weight.device)
    assert prefix is not None
    differences = [difference(ours, prefix.attend(query, key, value, cache, 0))]
    nothing = torch.from_numpy(prompt_tiles(lengths)).to(weight.device)
    ours = fused._prefill_attention(query, key, value, nothing, None, tables)
    packing = Packing.of(lengths, device=weight.device, dtype=weight.dtype)
    differences.append(difference(ours, packed_attention(query, key, value, packing, causal=True)))
    return _worst(*differences)


def _random_cache(decoder: Decoder, kv_dtype: torch.dtype) -> tuple[KvCache, Tensor]:
    """A cache of one layer, and the tables of 5 slots, their pages in any order."""
    config, weight = decoder.config, decoder.norm.weight
    num_pages = -(-MAX_LENGTH // PAGE_TOKENS)
    cache = KvCache(
        num_layers=1,
        num_pages=5 * num_pages,
        page_tokens=PAGE_TOKENS,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        device=weight.device,
        dtype=kv_dtype,
    )
    cache.data.copy_(_random(decoder, *cache.data.shape))
    order = torch.randperm(5 * num_pages, generator=torch.Generator().manual_seed(0))
    return cache, order.view(5, num_pages).to(weight.device)


def _attention(fusion: Fusion, decoder: Decoder, kv_dtype: torch.dtype) -> float:
    """At both ends of the range of splits, over slots out of order and partly filled."""
    config, weight = decoder.config, decoder.norm.weight
    cache, tables = _random_cache(decoder, kv_dtype)
    query = _random(decoder, NUM_ROWS, config.num_heads, config.head_dim)
    slots = torch.tensor([3, 0, 4], device=weight.device)
    lengths = torch.tensor([MAX_LENGTH, 1, 77], dtype=torch.int32, device=weight.device)
    pair = fused.paged(cache, 0)
    plain = fused.masked_attention(query, pair, tables, slots, lengths)
    outputs = [
        fused._attention_kernels().decode_attention(
            query,
            pair,
            tables,
            slots,
            lengths,
            splits=splits,
            tile=fusion.tile_of(splits, kv_dtype),
        )
        for splits in fused.SPLITS
    ]
    return _worst(*(difference(output, plain) for output in outputs))


def _shared(fusion: Fusion, decoder: Decoder, kv_dtype: torch.dtype) -> float:
    """Where some of more sequences than a tile holds begin alike, with one and with two pages, and
    one of them has nothing but its new token beside."""
    config, weight = decoder.config, decoder.norm.weight
    cache, tables = _random_cache(decoder, kv_dtype)
    num_rows = 40
    slots = torch.arange(num_rows, device=weight.device) % len(tables)
    query = _random(decoder, num_rows, config.num_heads, config.head_dim)
    lengths = torch.tensor([129, MAX_LENGTH, 140, 131, 150], device=weight.device)
    lengths = lengths.to(torch.int32).index_select(0, slots)
    pair, tile = fused.paged(cache, 0), fusion.tile_of(1, kv_dtype)
    differences = []
    for num_pages in (1, 2):
        own = tables.clone()
        own[[0, 2, 3], :num_pages] = own[0, :num_pages]
        begins_alike = (slots != 1) & (slots != 4)
        counts = (begins_alike * num_pages * PAGE_TOKENS).to(torch.int32)
        ours = fused._attention_kernels().decode_attention(
            query, pair, own, slots, lengths, splits=1, tile=tile, shared=(own[0], counts)
        )
        plain = fused.masked_attention(query, pair, own, slots, lengths)
        differences.append(difference(ours, plain))
    return _worst(*differences)
