"""What a step takes stays within what the plan reserves for it; a queue takes what does not fit."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
import torch

from predictor.engine import Engine, EngineOptions
from predictor.engine.cuda.runner import GraphOptions, GraphRunner
from predictor.engine.start.memory import plan_slots, work_bytes
from predictor.errors import Overloaded
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
    reserved = work_bytes(config, OPTIONS, OPTIONS.max_model_len, torch.bfloat16)
    slots = plan_slots(config.text, OPTIONS, 1024, device, torch.bfloat16, 2 * reserved)
    assert slots == OPTIONS.max_num_seqs
    graph_options = GraphOptions(max_prefill_audio_s=OPTIONS.max_prefill_audio_s)
    runner = GraphRunner(model, num_slots=slots, max_model_len=1024, options=graph_options)
    without_end(runner)
    clips = Clips(config.text.vocab_size)
    requests = [clips.request(30.0 if i % 3 else 7.5) for i in range(120)]
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    engine = Engine(runner, replace(OPTIONS, max_waiting_requests=100))
    engine.start()

    async def run() -> tuple[int, int]:
        async def one(index: int) -> int:
            return sum([len(chunk.token_ids) async for chunk in streams[index]])

        streams, refused = [], 0
        for request in requests:
            try:
                streams.append(engine.submit(request))
            except Overloaded:
                refused += 1
        counts = await asyncio.gather(*(one(i) for i in range(len(streams))))
        assert all(counts)
        return len(streams), refused

    try:
        answered, refused = asyncio.run(run())
    finally:
        engine.stop()  # its thread is the only one that may touch the device until then
    while runner.idle():
        pass
    assert runner._capturer is not None
    torch.cuda.synchronize()
    used = torch.cuda.max_memory_allocated() - before
    print(f"{used / 2**20:.0f} MiB used of {2 * reserved / 2**20:.0f} MiB reserved")
    assert answered + refused == len(requests)
    assert answered >= 100
    assert engine.stats().num_failed == 0
    assert used <= 2 * reserved
