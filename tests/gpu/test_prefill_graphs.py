"""Prefills as graphs against the same prefills call by call, in bfloat16, on the embedded model.

The graph's padding changes the sizes of matrix products and so the order of sums: keys and values
are compared by relative distance, and what belongs to others must not change at all.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from predictor.engine.cuda.prefill_buckets import Size
from predictor.engine.cuda.prefill_graphs import BUCKETS_S
from predictor.engine.cuda.runner import GraphRunner
from predictor.engine.options import EngineOptions
from predictor.engine.pages import pages_of_slot
from predictor.engine.sequence import Sequence
from predictor.model.checkpoint.weights import load_model
from predictor.types import EngineRequest
from tests.gpu.test_graphs import AFTER, BEFORE, MAX_MODEL_LEN, NUM_SLOTS, TINY

pytestmark = pytest.mark.gpu

OPTIONS = EngineOptions(max_num_seqs=NUM_SLOTS, max_model_len=MAX_MODEL_LEN)
BATCHES_S = [
    [0.1],
    [1.0],
    [3.99],
    [10.0],
    [30.0],
    [0.5, 0.5],
    [7.5, 0.3, 16.01, 1.2],
    [29.99, 30.0],
    [9.999] * 9,
    [8.0] * 12,
    [30.0] * 12,
    [50.0] * 12,
]


@pytest.fixture(scope="module")
def runner() -> GraphRunner:
    torch.manual_seed(0)
    model = load_model(TINY, device="cuda", dtype=torch.bfloat16)
    runner = GraphRunner(model, num_slots=NUM_SLOTS, max_model_len=MAX_MODEL_LEN)
    runner.capture_up_to(1, prefill_s=max(BUCKETS_S))
    assert runner._prefills.graphs is not None
    assert runner._prefills.graphs.next_missing_s == 0
    return runner


def sequences(runner: GraphRunner, durations_s: list[float]) -> list[Sequence]:
    rng = np.random.default_rng(1)
    slots = rng.permutation(NUM_SLOTS)
    made = []
    for i, duration_s in enumerate(durations_s):
        samples = (0.1 * rng.standard_normal(int(16_000 * duration_s))).astype(np.float32)
        request = EngineRequest(str(i), samples, BEFORE[: 5 + i], AFTER, max_new_tokens=20)
        sequence = Sequence(request, runner.limits, OPTIONS)
        sequence.slot = int(slots[i])
        sequence.pages = pages_of_slot(sequence.slot, MAX_MODEL_LEN, runner.page_size)
        made.append(sequence)
    return made


@torch.inference_mode()
def first_tokens(runner: GraphRunner, some: list[Sequence]) -> tuple[list[float], torch.Tensor]:
    """Log-probabilities of the first tokens, and the cache [layers, 2, pages, tokens, K, D]."""
    runner._cache.data.fill_(3.0)
    runner.prefill(some)
    assert runner.recover()
    logprobs = [runner._unclaimed.pop(s).logprobs[0] for s in some]
    return logprobs, runner._cache.data[:, :, : runner.page_size.count].clone()


def size_of(some: list[Sequence]) -> Size:
    stretches = [stretch for each in some for stretch in each.stretches()]
    return Size.of(some, stretches)


@pytest.mark.parametrize("durations_s", BATCHES_S, ids=str)
def test_a_graph_fills_the_slots_as_calls_do(
    runner: GraphRunner, durations_s: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    some = sequences(runner, durations_s)
    graphs = runner._prefills.graphs
    assert graphs is not None
    assert any(bucket.holds(size_of(some)) for bucket in graphs._graphs)
    by_graph, cache = first_tokens(runner, some)
    monkeypatch.setattr(runner._prefills, "graphs", None)
    by_calls, expected = first_tokens(runner, some)
    assert by_graph == pytest.approx(by_calls, abs=0.1)
    for sequence in some:
        ours = cache[:, :, sequence.pages].flatten(2, 3).double()
        theirs = expected[:, :, sequence.pages].flatten(2, 3).double()
        num_tokens = sequence.num_prompt_tokens
        assert torch.equal(ours[:, :, num_tokens:], theirs[:, :, num_tokens:])
        ours, theirs = ours[:, :, :num_tokens], theirs[:, :, :num_tokens]
        assert ((ours - theirs).norm() / theirs.norm()).item() < 0.03
    used = {page for sequence in some for page in sequence.pages}
    others = [page for page in range(runner.page_size.count) if page not in used]
    assert (cache[:, :, others] == 3.0).all()


def test_what_no_bucket_holds_goes_call_by_call(runner: GraphRunner) -> None:
    some = sequences(runner, [52.0] * NUM_SLOTS)
    assert runner._prefills.graphs is not None
    size = size_of(some)
    assert not any(bucket.holds(size) for bucket in runner._prefills.graphs._graphs)
    logprobs, _ = first_tokens(runner, some)
    assert all(np.isfinite(logprobs))
