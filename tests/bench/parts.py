"""The engine's parts alone: encoder, prefill and decode steps, timed on the device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from predictor.engine.cuda.runner import GraphRunner
from predictor.engine.pages import pages_of_slot
from predictor.engine.prompts import PromptLayout
from predictor.engine.sequence import Sequence
from predictor.model.attention import Packing
from predictor.model.cuda.decoder import PLAIN, FusedDecoder
from predictor.model.cuda.encoder import FusedEncoder
from predictor.model.cuda.mel import chunk_table, loudest_before
from predictor.model.cuda.slots import StepPlaces
from predictor.model.mel import following
from predictor.model.stretch import Stretch
from tests.bench.load import Clips, options


def timed_ms(device: torch.device, run: Callable[[], object], repeats: int = 5) -> float:
    """Median milliseconds of `run` on the device, after one warm-up."""
    run()
    times = []
    for _ in range(repeats):
        if device.type != "cuda":
            began = time.perf_counter()
            run()
            times.append(1e3 * (time.perf_counter() - began))
            continue
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize(device)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize(device)
        times.append(start.elapsed_time(end))
    return statistics.median(times)


@torch.inference_mode()
def prefill_parts(
    device: torch.device, runner: GraphRunner, clips: Clips | None, duration_s: float, small: bool
) -> dict[str, Any]:
    """Milliseconds of each part of one prefill step, fused and plain, and of one clip alone."""
    assert clips is not None
    num_clips = 2 if small else 20
    model = runner._model
    requests = [clips.request(duration_s) for _ in range(num_clips)]
    samples = [r.samples for r in requests]
    parts: dict[str, Any] = {"num_clips": num_clips, "clip_s": duration_s}
    parts["mel_with_transfer_ms"] = timed_ms(device, lambda: runner._prefills._mel(samples))
    stretches = [Stretch.whole(clip) for clip in samples]
    waveforms = runner._prefills._mel.send(samples)
    tables = (chunk_table(stretches), loudest_before(stretches), following(stretches))
    on_device = [torch.from_numpy(table).to(device) for table in tables]
    table, *heard = on_device
    parts["mel_ms"] = timed_ms(
        device, lambda: runner._prefills._mel.features(waveforms, table, num_clips, *heard)
    )
    mel = runner._prefills._mel(samples)
    plan = model.encoder.plan(mel.num_frames)
    parts["encoder_ms"] = timed_ms(device, lambda: runner._prefills._encoder(mel.chunks, plan))
    plain = FusedEncoder(model.encoder, is_on=False)
    parts["encoder_plain_ms"] = timed_ms(device, lambda: plain(mel.chunks, plan))
    parts |= convolution_parts(device, runner, mel.chunks[:128])
    sequences = [
        Sequence(request, runner.limits, options(max_model_len=runner.limits.max_model_len))
        for request in requests
    ]
    for slot, sequence in enumerate(sequences):
        sequence.slot = slot % runner.num_slots
        sequence.pages = _pages(runner, sequence.slot)
    lengths = [s.num_prompt_tokens for s in sequences]
    total = sum(lengths)
    positions = torch.cat([torch.arange(n) for n in lengths]).to(device)
    layout = PromptLayout.of(sequences, runner.page_size.tokens)
    places = torch.from_numpy(layout.rows[2]).to(device)
    packing = Packing.of(lengths, device=device, dtype=model.dtype, are_prompts=True)
    x = torch.randn(total, model.config.text.hidden_size, device=device).to(model.dtype)
    for name, fusion in (("fused", runner.fusion), ("plain", PLAIN)):
        decoder = FusedDecoder(
            model.decoder, runner._cache, fusion,
            max_length=runner.limits.max_model_len, tables=runner._loop.tables,
        )  # fmt: skip
        parts[f"prefill_{name}_ms"] = timed_ms(
            device, lambda d=decoder: d.prefill(x.clone(), positions, places, packing, packing.ends)
        )
    weight = model.decoder.layers[0].gate_up.weight
    parts["gate_up_matmul_ms"] = timed_ms(device, lambda: torch.nn.functional.linear(x, weight))
    parts["gate_up_tflops"] = 2e-9 * total * weight.numel() / parts["gate_up_matmul_ms"]
    for name, some in (("whole_step", sequences), ("one_clip", sequences[:1])):
        walls, launches = [], []
        for _ in range(2 if small else 8):
            began = time.perf_counter()
            runner.prefill(some)
            launches.append(1e3 * (time.perf_counter() - began))
            runner.recover()
            walls.append(1e3 * (time.perf_counter() - began))
        parts[f"{name}_wall_ms"] = statistics.median(walls)
        parts[f"{name}_host_ms"] = statistics.median(launches)
    runner._unclaimed.clear()
    parts["value"], parts["unit"] = parts["whole_step_wall_ms"], "ms"
    parts["note"] = (
        " ".join(
            f"{key.removesuffix('_ms')} {parts[key]:.1f}"
            for key in ("mel_ms", "encoder_ms", "prefill_fused_ms", "prefill_plain_ms")
        )
        + f" host {parts['whole_step_host_ms']:.1f}"
        + f" one {parts['one_clip_wall_ms']:.1f} gemm {parts['gate_up_tflops']:.0f}TF"
    )
    return parts


def convolution_parts(
    device: torch.device, runner: GraphRunner, chunks: torch.Tensor
) -> dict[str, float]:
    """The convolutions on one batch of chunks, fused, and each one plain, its activation apart."""
    encoder = runner._model.encoder
    gelu = torch.nn.functional.gelu
    times: dict[str, float] = {"conv_chunks": float(len(chunks))}
    if runner.fusion.encoder:
        times["convolve_ms"] = timed_ms(device, lambda: runner._prefills._encoder.convolve(chunks))
    x = chunks.to(runner._model.dtype).unsqueeze(1)
    x = x.contiguous(memory_format=torch.channels_last)
    for i, conv in enumerate((encoder.conv1, encoder.conv2, encoder.conv3), start=1):
        times[f"conv{i}_ms"] = timed_ms(device, lambda c=conv, y=x: c(y))
        x = conv(x)
        times[f"gelu{i}_ms"] = timed_ms(device, lambda y=x: gelu(y))
        x = gelu(x)
    return times


@torch.inference_mode()
def decode_steps(runner: GraphRunner, small: bool) -> dict[str, Any]:
    """Milliseconds of one decode step by batch size at 460 tokens of context; by attention too."""
    device = runner._device
    context = 32 if small else 460
    result: dict[str, Any] = {"context": context}
    loop = runner._loop
    batches = (1, 2, 4) if small else (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
    for batch in batches:
        bucket = next(b for b in runner._buckets if b >= batch)
        point_at_all(runner)
        graph = loop.graphs.get(bucket)

        def steps(g: Any = graph, b: int = bucket) -> None:
            loop.positions.fill_(context)
            for _ in range(8):
                if g is None:
                    loop.step(b)
                else:
                    g.replay()

        result[f"step_{batch}_ms"] = timed_ms(device, steps) / 8
    result["value"], result["unit"] = result[f"step_{batches[-1]}_ms"], "ms"
    result["note"] = " ".join(f"B{b}={result[f'step_{b}_ms']:.2f}" for b in batches)
    if device.type == "cuda":
        try:
            result["attention"] = attention_variants(runner, context)
            best = min(result["attention"]["256"].items(), key=lambda item: item[1])
            result["note"] += f" best attention {best[0]} {best[1]:.3f} ms"
        except Exception as error:  # noqa: BLE001  the steps above stay
            result["attention_error"] = f"{type(error).__name__}: {error}"[:300]
    return result


def point_at_all(runner: GraphRunner) -> None:
    """Let the next steps run all slots, whatever is in them."""
    loop, device = runner._loop, runner._device
    loop.forget()
    num_slots, width = runner.num_slots, loop.tables.shape[1]
    pages = torch.arange(num_slots * width, device=device).view(num_slots, width)
    loop.tables[:-1] = pages.clamp(max=runner.page_size.count - 1)
    runner._loop.rows.copy_(torch.arange(runner.num_slots, device=runner._device))


def _pages(runner: GraphRunner, slot: int) -> list[int]:
    return pages_of_slot(slot, runner.limits.max_model_len, runner.page_size)


def attention_variants(runner: GraphRunner, context: int) -> dict[str, dict[str, float]]:
    """One layer's decode attention: kernels and tiles, in graphs of all layers."""
    device, config = runner._device, runner._model.config.text
    kinds: dict[str, Any] = {}
    for tile in ((64, 4, 3), (16, 1, 6), (128, 4, 2), (64, 4, 2)):
        name = "x".join(map(str, tile))
        kinds[name] = replace(runner.fusion, attention="split", tile=tile, full_tile=tile)
    times: dict[str, dict[str, float]] = {}
    for batch in (1, 256):
        slots = torch.arange(batch, device=device)
        positions = torch.full_like(slots, context)
        tables = runner._loop.tables
        where = StepPlaces.of(slots, positions, tables, runner.page_size.tokens)
        query = torch.randn(batch, config.num_heads, config.head_dim, device=device)
        query = query.to(runner._model.dtype)
        times[str(batch)] = {}
        for name, fusion in kinds.items():
            decoder = FusedDecoder(
                runner._model.decoder, runner._cache, fusion,
                max_length=runner.limits.max_model_len, tables=tables,
            )  # fmt: skip
            try:
                times[str(batch)][name] = _layers_ms(device, decoder, where, query, config)
            except Exception as error:  # noqa: BLE001  a tile that does not fit
                times[str(batch)][f"{name} {type(error).__name__}"] = float("inf")
    return times


def _layers_ms(device: Any, decoder: Any, where: Any, query: Any, config: Any) -> float:
    attend = decoder._decode_attention(where)

    def run() -> None:
        for layer in range(config.num_layers):
            attend(layer, query, query, query)

    run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return timed_ms(device, graph.replay) / float(config.num_layers)


@torch.inference_mode()
def kernel_times(runner: GraphRunner, clips: Clips | None) -> dict[str, Any]:
    """The kernels that take most of a prefill step of 20 clips and of a full decode step."""
    from torch.profiler import ProfilerActivity, profile

    assert clips is not None
    settings = options(max_model_len=runner.limits.max_model_len)
    sequences = [Sequence(clips.request(30.0), runner.limits, settings) for _ in range(20)]
    for slot, sequence in enumerate(sequences):
        sequence.slot = slot
        sequence.pages = _pages(runner, slot)
    point_at_all(runner)
    loop = runner._loop
    loop.positions.fill_(460)
    result: dict[str, Any] = {}
    works: dict[str, Callable[[], object]] = {
        "prefill": lambda: runner.prefill(sequences),
        "decode": lambda: loop.step(runner._buckets[-1]),
        "decode_one": lambda: loop.step(1),
    }
    for name, work in works.items():
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            work()
            torch.cuda.synchronize(runner._device)
        events = sorted(profiler.key_averages(), key=lambda e: -e.self_device_time_total)
        result[f"{name}_kernels_ms"] = {
            f"{e.key[:90]} x{e.count}": e.self_device_time_total / 1e3 for e in events[:22]
        }
        result[f"{name}_ms"] = sum(e.self_device_time_total for e in events) / 1e3
    runner.recover()
    runner._unclaimed.clear()
    result["value"], result["unit"] = result["decode_ms"], "ms"
    result["note"] = f"prefill of 20 {result['prefill_ms']:.1f} ms in kernels"
    return result
