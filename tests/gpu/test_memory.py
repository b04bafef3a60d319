"""What a step takes stays within what the plan reserves for it; a queue takes what does not fit."""

from __future__ import annotations

import asyncio

import pytest
import torch

from predictor.engine import EngineClient, EngineCore, EngineOptions
from predictor.engine.cuda.runner import GraphOptions, GraphRunner
from predictor.engine.pages import PAGE_TOKENS
from predictor.engine.start.memory import cuda_work_bytes, plan_pages
from tests.bench.load import Clips, without_end
from tests.bench.shapes import SHAPES, random_model

pytestmark = pytest.mark.gpu

OPTIONS = EngineOptions(
    max_num_seqs=32, max_model_len=1024, max_prefill_audio_s=240.0, max_repeats=10**6
)


def test_a_full_step_keeps_to_what_is_reserved() -> None:
    """Call by call and as graphs, at the 0.6B's shapes; and past capacity nothing fails."""
    device, config = torch.device("cuda"), SHAPES["0.6B"]
    model = random_model(config, device, torch.bfloat16)
    reserved = cuda_work_bytes(config, OPTIONS, OPTIONS.max_model_len, torch.bfloat16)
    pages = plan_pages(config.text, OPTIONS, 1024, device, torch.bfloat16, reserved)
    assert pages == OPTIONS.max_num_seqs * 1024 // PAGE_TOKENS
    graph_options = GraphOptions(max_prefill_audio_s=OPTIONS.max_prefill_audio_s)
    runner = GraphRunner(
        model,
        num_slots=OPTIONS.max_num_seqs,
        num_pages=pages,
        max_model_len=1024,
        options=graph_options,
    )
    without_end(runner)
    clips = Clips(config.text.vocab_size)
    requests = [clips.request(30.0 if i % 3 else 7.5) for i in range(120)]
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    engine = EngineClient([EngineCore(runner, OPTIONS)])
    engine.start()

    async def run() -> int:
        async def one(index: int) -> int:
            return sum([len(chunk.token_ids) async for chunk in streams[index]])

        streams = [engine.submit(request) for request in requests]
        counts = await asyncio.gather(*(one(i) for i in range(len(streams))))
        assert all(counts)
        return len(streams)

    try:
        answered = asyncio.run(run())
    finally:
        engine.stop()  # its thread is the only one that may touch the device until then
    while runner.idle():
        pass
    assert runner._capturer is not None
    torch.cuda.synchronize()
    used = torch.cuda.max_memory_allocated() - before
    print(f"{used / 2**20:.0f} MiB used of {reserved / 2**20:.0f} MiB reserved")
    assert answered == len(requests)
    assert engine.stats().num_failed == 0
    assert used <= reserved
