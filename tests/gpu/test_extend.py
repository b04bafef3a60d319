"""Pages, drafts and kept sequences on a CUDA device, on the embedded model.

In float32 tokens equal the plain runner's; in bfloat16 graphs are compared with calls, and the
kernel that reads what is cached with attention in plain torch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from predictor.engine import EngineClient, EngineCore, EngineOptions
from predictor.engine.cuda.prefill_graphs import STEP_BUCKETS
from predictor.engine.cuda.runner import GraphOptions, GraphRunner
from predictor.engine.pages import pages_of_slot
from predictor.engine.prompts import PromptLayout
from predictor.engine.runner import TorchRunner
from predictor.engine.sequence import Batch, Sequence
from predictor.engine.utterance import Utterance
from predictor.model.attention import FP8
from predictor.model.checkpoint.weights import load_model
from predictor.model.cuda.decoder import Fusion
from predictor.model.model import Model
from predictor.model.stretch import Stretch, Windows
from predictor.types import EngineRequest, ExtendRequest
from tests.gpu.test_graphs import AFTER, BEFORE, MAX_MODEL_LEN, NUM_SLOTS, TINY, requests

pytestmark = pytest.mark.gpu

OPTIONS = EngineOptions(max_num_seqs=NUM_SLOTS, max_model_len=MAX_MODEL_LEN, max_repeats=10_000)
Answer = tuple[tuple[int, ...], int]  # tokens, and how many of the draft were accepted


@pytest.fixture(scope="module")
def in_float32() -> Model:
    torch.backends.cudnn.allow_tf32 = False
    return load_model(TINY, device="cuda", dtype=torch.float32)


@pytest.fixture(scope="module")
def in_bfloat16() -> Model:
    return load_model(TINY, device="cuda", dtype=torch.bfloat16)


async def answer(stream) -> Answer:  # type: ignore[no-untyped-def]
    tokens: list[int] = []
    async for chunk in stream:
        tokens += chunk.token_ids
    return tuple(tokens), chunk.num_draft_accepted


async def all_of(runner: TorchRunner, asked: list[EngineRequest]) -> list[Answer]:
    engine = EngineClient([EngineCore(runner, OPTIONS)])
    engine.start()
    try:
        return await asyncio.gather(*(answer(engine.submit(request)) for request in asked))
    finally:
        engine.stop()


def fast(model: Model, **sizes: int) -> GraphRunner:
    runner = GraphRunner(
        model, num_slots=NUM_SLOTS, max_model_len=MAX_MODEL_LEN,
        options=GraphOptions(steps=((1, 2),)), **sizes,
    )  # fmt: skip
    assert runner.fusion == Fusion()
    return runner


@pytest.mark.parametrize("page_tokens", [16, 64, 128])
def test_few_pages_cost_time_and_no_token(in_float32: Model, page_tokens: int) -> None:
    """Sequences wait, or give up their pages and are made anew."""
    asked = requests()
    plain = TorchRunner(in_float32, num_slots=NUM_SLOTS, max_model_len=MAX_MODEL_LEN)
    theirs = asyncio.run(all_of(plain, asked))
    num_pages = -(-MAX_MODEL_LEN // page_tokens) + 3
    ours = asyncio.run(
        all_of(fast(in_float32, page_tokens=page_tokens, num_pages=num_pages), asked)
    )
    assert ours == theirs


def test_a_draft_changes_no_token(in_float32: Model) -> None:
    asked = requests()
    runner = fast(in_float32)
    plain = asyncio.run(all_of(runner, asked))
    right = [replace(r, draft=tokens) for r, (tokens, _) in zip(asked, plain, strict=True)]
    answers = asyncio.run(all_of(runner, right))
    assert [tokens for tokens, _ in answers] == [tokens for tokens, _ in plain]
    for (tokens, accepted), request in zip(answers, asked, strict=True):
        assert accepted >= min(len(tokens), request.max_new_tokens - 1) - 1
    rng = np.random.default_rng(0)
    wrong = [replace(r, draft=tuple(rng.integers(0, 200, 9).tolist())) for r in asked]
    answers = asyncio.run(all_of(runner, wrong))
    assert [tokens for tokens, _ in answers] == [tokens for tokens, _ in plain]


def grown(seed: int) -> list[tuple[int, int]]:
    """Where an utterance's steps begin and end, in samples; windows close at their edges."""
    ends = [8_000 * (3 + seed + 9 * i) for i in range(5)] + [128_039, 128_040, 256_041, 300_000]
    ends = sorted(ends)
    return list(zip([0, *ends], ends, strict=False))


async def steps_of(runner: TorchRunner) -> dict[str, list[tuple[int, ...]]]:
    """The answers of the steps of six utterances that grow at once, drafts from the step before."""
    rng = np.random.default_rng(2)
    clips = {f"s{i}": (0.1 * rng.standard_normal(360_000)).astype(np.float32) for i in range(6)}
    engine = EngineClient([EngineCore(runner, OPTIONS)])
    engine.start()

    async def session(name: str, seed: int) -> list[tuple[int, ...]]:
        said: list[tuple[int, ...]] = []
        for number, (begin, end) in enumerate(grown(seed)):
            request = ExtendRequest(
                f"{name} {number}", name, clips[name][begin:end], BEFORE, AFTER, max_new_tokens=16,
                draft=said[-1] if said and seed % 2 else (),
            )  # fmt: skip
            said.append((await answer(engine.extend(request)))[0])
        return said

    try:
        results = await asyncio.gather(*(session(n, i) for i, n in enumerate(clips)))
    finally:
        engine.stop()
    return dict(zip(clips, results, strict=True))


def test_steps_give_the_plain_runners_tokens(in_float32: Model) -> None:
    plain = TorchRunner(in_float32, num_slots=NUM_SLOTS, max_model_len=MAX_MODEL_LEN)
    theirs = asyncio.run(steps_of(plain))
    assert asyncio.run(steps_of(fast(in_float32))) == theirs
    few = fast(in_float32, num_pages=-(-MAX_MODEL_LEN // 64) + 4)
    assert asyncio.run(steps_of(few)) == theirs


def test_steps_in_bfloat16_agree_and_make_their_graphs_as_they_run(in_bfloat16: Model) -> None:
    plain = TorchRunner(in_bfloat16, num_slots=NUM_SLOTS, max_model_len=MAX_MODEL_LEN)
    theirs, runner = asyncio.run(steps_of(plain)), fast(in_bfloat16)
    ours = asyncio.run(steps_of(runner))
    assert runner._prefills.graphs is not None
    assert any(bucket.num_steps for bucket in runner._prefills.graphs._graphs)
    pairs = [
        pair
        for name in ours
        for a, b in zip(ours[name], theirs[name], strict=True)
        for pair in zip(a, b, strict=False)
    ]
    assert sum(a == b for a, b in pairs) >= 0.6 * len(pairs)


def some_steps(runner: GraphRunner, count: int) -> list[Sequence]:
    """With forced tokens and drafts; of every second one a window has just closed."""
    rng = np.random.default_rng(3)
    made = []
    for i in range(count):
        utterance = Utterance(Windows(runner.limits.window_chunks), BEFORE)
        samples = 0.1 * rng.standard_normal(128_100 + 9_000 * i)
        utterance.append(samples.astype(np.float32))
        request = EngineRequest(
            str(i), utterance.samples, BEFORE, AFTER, max_new_tokens=20,
            forced=tuple(range(i % 4)), draft=tuple(range(10, 10 + i)),
        )  # fmt: skip
        sequence = Sequence(request, runner.limits, OPTIONS, utterance)
        utterance.loudest = (1.5,) if i % 2 else ()
        sequence.slot = i
        sequence.num_cached = len(BEFORE) + (104 if i % 2 else 0)
        sequence.pages = pages_of_slot(i, MAX_MODEL_LEN, runner.page_size)
        made.append(sequence)
    return made


@pytest.mark.parametrize("kv_dtype", [None, FP8], ids=["16 bit", "8 bit"])
@pytest.mark.parametrize("count", [1, 3, 9])
@torch.inference_mode()
def test_a_graph_extends_as_calls_and_as_plain_attention_do(
    in_bfloat16: Model, monkeypatch: pytest.MonkeyPatch, kv_dtype: torch.dtype | None, count: int
) -> None:
    torch.manual_seed(0)
    runner = GraphRunner(
        in_bfloat16, num_slots=NUM_SLOTS, max_model_len=MAX_MODEL_LEN, kv_dtype=kv_dtype
    )
    graphs = runner._prefills.graphs
    assert graphs is not None
    while graphs.has_missing:
        runner.capture_prefill()
    assert sum(bucket.num_steps > 0 for bucket in graphs._graphs) == len(STEP_BUCKETS)
    content = torch.randn(runner._cache.data.shape, device="cuda", dtype=torch.bfloat16)

    def run() -> tuple[torch.Tensor, list[list[float]], torch.Tensor]:
        """The cache, given log-probabilities and first tokens of the steps' own rows."""
        runner._cache.data.copy_(content)
        some = some_steps(runner, count)
        runner.prefill(some)
        pending = runner._pending[-1]
        assert runner.recover()
        runner._unclaimed.clear()
        loudest = pending.loudest.clone()  # type: ignore[attr-defined]
        return runner._cache.data.clone(), pending.results[0, :, 1:].tolist(), loudest

    by_graph, values, loudest = run()
    assert graphs.start(*_asked(runner, count)) is not None, "no graph held the step"
    runner.recover()
    monkeypatch.setattr(runner._prefills, "graphs", None)
    by_calls, expected, heard = run()
    monkeypatch.setattr(runner._fused, "fusion", replace(runner.fusion, prefill=False))
    plainly, expected_plainly, _ = run()
    assert torch.allclose(loudest, heard, atol=1e-2)
    scratch = runner.page_size.count
    for other, theirs in ((by_calls, expected), (plainly, expected_plainly)):
        ours, others = by_graph[:, :, :scratch].double(), other[:, :, :scratch].double()
        assert ((ours - others).norm() / others.norm()).item() < 0.02
        assert np.median(np.abs(np.subtract(values, theirs))) < 0.1
    for sequence in some_steps(runner, count):
        pages = sequence.pages[: sequence.num_cached // 64]  # nothing wrote to what was cached
        assert torch.equal(
            by_graph[:, :, pages].double(), content[:, :, pages].to(by_graph.dtype).double()
        )


def _asked(
    runner: GraphRunner, count: int
) -> tuple[Batch, list[Stretch], Callable[[], PromptLayout]]:
    some = some_steps(runner, count)
    stretches = [stretch for sequence in some for stretch in sequence.stretches()]
    return some, stretches, partial(PromptLayout.of, some, 64)
