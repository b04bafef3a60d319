"""The fast path on a GPU against the plain one on the same device, on the embedded checkpoint.

In float32 tokens are equal. In bfloat16 the order of a sum decides near ties, so a sequence may
part from its twin: how far they agree is bounded, and log-probabilities agree until then.
`QWEN3_ASR_TEST_CLIPS` may name an .npz of real clips (arrays of 16 kHz float32 samples, one each);
without it, clips are seeded bursts of noise.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from predictor.engine import EngineClient, EngineCore
from predictor.engine.cuda.parity import kernel_errors
from predictor.engine.cuda.runner import GraphOptions, GraphRunner
from predictor.engine.options import EngineOptions
from predictor.engine.runner import TorchRunner
from predictor.model.checkpoint.weights import load_model
from predictor.model.cuda.decoder import PLAIN, Fusion
from predictor.model.cuda.mel import DeviceLogMel
from predictor.model.mel import LogMel
from predictor.model.model import Model
from predictor.types import EngineRequest, Samples

pytestmark = pytest.mark.gpu

TINY = Path(__file__).parents[2] / "predictor" / "checkpoints" / "tiny"
NUM_SLOTS, MAX_MODEL_LEN = 12, 768
OPTIONS = EngineOptions(max_num_seqs=NUM_SLOTS, max_model_len=MAX_MODEL_LEN)

# The embedded checkpoint's prompt without context or language; its tokenizer is not needed here.
BEFORE = (1301, 82, 88, 1102, 1161, 198, 1302, 198, 1301, 1123, 1059, 198, 1303)
AFTER = (1305, 1302, 198, 1301, 1090, 82, 1163, 1234, 198)

Answer = tuple[list[int], list[float]]


def clips() -> list[Samples]:
    """Real clips where they were brought along, else bursts of noise of all lengths."""
    file = os.environ.get("QWEN3_ASR_TEST_CLIPS")
    if file:
        with np.load(file) as archive:
            return [archive[name].astype(np.float32) for name in sorted(archive.files)]
    made = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        size = int(16_000 * (0.3 + 0.8 * seed))
        loudness = np.repeat(rng.random(size // 4000 + 1), 4000)[:size]
        made.append((0.3 * loudness * rng.standard_normal(size)).astype(np.float32))
    return made


def requests() -> list[EngineRequest]:
    return [
        EngineRequest(
            request_id=str(i),
            samples=samples,
            tokens_before=BEFORE,
            tokens_after=AFTER,
            max_new_tokens=20 + 3 * (i % 20),
        )
        for i, samples in enumerate(clips())
    ]


async def answers(runner: TorchRunner, asked: list[EngineRequest]) -> list[Answer]:
    engine = EngineClient([EngineCore(runner, OPTIONS)])
    engine.start()

    async def answer(request: EngineRequest) -> Answer:
        tokens: list[int] = []
        logprobs: list[float] = []
        async for chunk in engine.submit(request):
            tokens += chunk.token_ids
            logprobs += chunk.logprobs
        return tokens, logprobs

    try:
        return await asyncio.gather(*(answer(request) for request in asked))
    finally:
        engine.stop()


def fast_runner(
    model: Model, fusion: Fusion, steps: int = 2, use_graphs: bool = True
) -> GraphRunner:
    runner = GraphRunner(
        model,
        num_slots=NUM_SLOTS,
        max_model_len=MAX_MODEL_LEN,
        options=GraphOptions(
            fusion=fusion, steps=((1, steps),), use_graphs=use_graphs, check_kernels=False
        ),
    )
    if use_graphs:
        runner.capture_up_to(4, prefill_s=8)
        assert 4 in runner._loop.graphs
    return runner


@pytest.fixture(scope="module")
def in_float32() -> Model:
    torch.backends.cudnn.allow_tf32 = False
    return load_model(TINY, device="cuda", dtype=torch.float32)


@pytest.fixture(scope="module")
def in_bfloat16() -> Model:
    return load_model(TINY, device="cuda", dtype=torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@torch.inference_mode()
def test_kernels_equal_their_plain_twins(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = load_model(TINY, device="cuda", dtype=dtype)
    assert kernel_errors(Fusion(), model) == {}


@pytest.mark.parametrize(
    ("fusion", "steps", "use_graphs"),
    [(Fusion(), 1, True), (Fusion(), 4, True), (PLAIN, 2, True), (Fusion(), 2, False)],
    ids=["fused", "four steps a look", "graphs alone", "kernels alone"],
)
def test_tokens_are_equal_in_float32(
    in_float32: Model, fusion: Fusion, steps: int, use_graphs: bool
) -> None:
    asked = requests()
    plain = TorchRunner(in_float32, num_slots=NUM_SLOTS, max_model_len=MAX_MODEL_LEN)
    theirs = asyncio.run(answers(plain, asked))
    ours = asyncio.run(answers(fast_runner(in_float32, fusion, steps, use_graphs), asked))
    assert [tokens for tokens, _ in ours] == [tokens for tokens, _ in theirs]
    for (_, our_logprobs), (_, their_logprobs) in zip(ours, theirs, strict=True):
        assert our_logprobs == pytest.approx(their_logprobs, abs=2e-3)


@pytest.mark.parametrize("attention", ["split", "masked"])
def test_tokens_agree_in_bfloat16(in_bfloat16: Model, attention: str) -> None:
    asked = requests()
    plain = TorchRunner(in_bfloat16, num_slots=NUM_SLOTS, max_model_len=MAX_MODEL_LEN)
    theirs = asyncio.run(answers(plain, asked))
    assert attention in ("split", "masked")
    fusion = Fusion(attention=attention)  # type: ignore[arg-type]
    ours = asyncio.run(answers(fast_runner(in_bfloat16, fusion), asked))
    num_agreed = num_tokens = 0
    differences: list[float] = []
    for (our_tokens, our_logprobs), (tokens, logprobs) in zip(ours, theirs, strict=True):
        agreed = next(
            (i for i, pair in enumerate(zip(our_tokens, tokens, strict=False)) if len({*pair}) > 1),
            min(len(our_tokens), len(tokens)),
        )
        num_agreed += agreed
        num_tokens += len(tokens)
        pairs = zip(our_logprobs[:agreed], logprobs[:agreed], strict=True)
        differences += [abs(a - b) for a, b in pairs]
    assert num_agreed >= 0.6 * num_tokens, f"{num_agreed} of {num_tokens} tokens agree"
    assert np.median(differences) < 0.05


def test_features_equal_those_cut_on_the_host() -> None:
    waveforms = clips()[:12]
    device = DeviceLogMel(128, device="cuda")(waveforms)
    host = LogMel(128, device="cpu")(waveforms)
    assert device.num_frames == host.num_frames
    assert (device.chunks.cpu() - host.chunks).abs().max() < 1e-3


def test_a_batch_that_shrinks_and_grows_uses_every_graph(in_bfloat16: Model) -> None:
    """Alone or in company, with any neighbours: the same tokens in the same bucket's company."""
    asked = requests()[:NUM_SLOTS]
    runner = fast_runner(in_bfloat16, Fusion(), steps=3)
    asyncio.run(answers(runner, asked))
    while runner.idle():
        pass
    assert runner._capturer is not None
    assert set(runner._loop.graphs) == set(runner._buckets)
