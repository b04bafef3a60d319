"""The engine on CUDA against the engine on the CPU: the same tokens in float32, and in bfloat16
no more errors than half a percent beyond them. Needs a CUDA device: `pytest -m gpu`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from predictor.engine import EngineClient, EngineOptions, build_engine
from predictor.model.attention import Packing, packed_attention
from predictor.model.checkpoint.weights import load_model
from predictor.model.mel import LogMel
from predictor.types import EngineRequest
from tests.engine.asking import OPTIONS, pool
from tests.model.checkpoints import EMBEDDED, SHAPES, Shape, clip, write_random

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

TINY = EMBEDDED / "tiny"
ROOT = EMBEDDED.parents[1]
CUDA = torch.device("cuda")


@contextmanager
def running(
    folder: Path, device: str, dtype: str, options: EngineOptions
) -> Iterator[EngineClient]:
    engine = EngineClient([build_engine(folder, device, dtype, options)])
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


def answers(
    engine: EngineClient, requests: list[EngineRequest], at_once: int
) -> list[tuple[int, ...]]:
    """The tokens of every request, `at_once` of them in flight."""

    async def one(request: EngineRequest, room: asyncio.Semaphore) -> tuple[int, ...]:
        async with room:
            return tuple([t async for c in engine.submit(request) for t in c.token_ids])

    async def run() -> list[tuple[int, ...]]:
        room = asyncio.Semaphore(at_once)
        return list(await asyncio.gather(*(one(request, room) for request in requests)))

    return asyncio.run(run())


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
@pytest.mark.parametrize("at_once", [1, 20])
def test_float32_gives_the_tokens_of_the_cpu(tmp_path: Path, shape: Shape, at_once: int) -> None:
    folder = write_random(tmp_path / "native", shape)
    requests = [replace(r, request_id=f"{i}-{r.request_id}") for i in range(3) for r in pool()]
    with running(folder, "cpu", "float32", OPTIONS) as engine:
        expected = answers(engine, requests, at_once=1)
    with running(folder, "cuda", "float32", OPTIONS) as engine:
        assert answers(engine, requests, at_once) == expected


def test_log_mel_equals_the_cpu() -> None:
    clips = [clip(duration_s, seed) for seed, duration_s in enumerate((0.1, 1.0, 7.77, 30.0))]
    on_cpu = LogMel(128, device="cpu")(clips)
    on_cuda = LogMel(128, device=CUDA)(clips)
    assert on_cuda.num_frames == on_cpu.num_frames
    torch.testing.assert_close(on_cuda.chunks.cpu(), on_cpu.chunks, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("num_heads", "num_kv_heads", "causal"), [(4, 4, False), (6, 2, True)])
def test_the_variable_length_kernel_equals_the_padded_path(
    dtype: torch.dtype, num_heads: int, num_kv_heads: int, causal: bool
) -> None:
    lengths = [104, 104, 17, 1, 63]
    generator = torch.Generator(CUDA).manual_seed(0)
    shapes = [(sum(lengths), heads, 64) for heads in (num_heads, num_kv_heads, num_kv_heads)]
    inputs = [torch.randn(s, generator=generator, device=CUDA).to(dtype) for s in shapes]
    fast = Packing.of(lengths, device=CUDA, dtype=dtype)
    plain = Packing.of(lengths, device=CUDA, dtype=torch.float32)
    assert fast.bounds is not None
    assert plain.bounds is None
    ours = packed_attention(*inputs, fast, causal=causal)
    query, key, value = (tensor.float() for tensor in inputs)
    expected = packed_attention(query, key, value, plain, causal=causal)
    torch.testing.assert_close(ours.float(), expected, rtol=0, atol=0.02)


def test_the_encoder_in_bfloat16_stays_near_float32() -> None:
    clips = [clip(duration_s, seed) for seed, duration_s in enumerate((0.6, 9.3, 16.0))]
    outputs = []
    for dtype in (torch.float32, torch.bfloat16):
        model = load_model(TINY, device=CUDA, dtype=dtype)
        mel = LogMel(128, device=CUDA)(clips)
        plan = model.encoder.plan(mel.num_frames)
        with torch.inference_mode():
            outputs.append(model.encoder(mel.chunks.to(dtype), plan).float())
    exact, rounded = outputs
    assert ((rounded - exact).norm() / exact.norm()).item() < 0.05


@dataclass(frozen=True)
class Spoken:
    """A recording and what is said in it."""

    request: EngineRequest
    language: str
    text: str


def recordings() -> list[Spoken]:
    """The evaluation set where it is in the tree, and the demo recordings."""
    soundfile = pytest.importorskip("soundfile")
    from predictor.text.prompt import PromptBuilder
    from predictor.text.tokenizer import TextTokenizer

    prompt = PromptBuilder(TextTokenizer.load(TINY), max_context_tokens=100).build()
    folder = ROOT / "predictor" / "recordings"
    items = [(folder, item) for item in json.loads((folder / "recordings.json").read_text())]
    manifest = ROOT / "tests" / "data" / "eval" / "manifest.jsonl"
    if manifest.is_file():
        lines = manifest.read_text(encoding="utf-8").splitlines()
        items += [(manifest.parent, json.loads(line)) for line in lines]
    spoken = []
    for i, (folder, item) in enumerate(items):
        samples, rate_hz = soundfile.read(folder / item["audio"], dtype="float32")
        assert rate_hz == 16_000
        request = EngineRequest(
            str(i), samples, prompt.tokens_before, prompt.tokens_after, max_new_tokens=300
        )
        spoken.append(Spoken(request, item["language"], item["text"]))
    return spoken


def error_rate(spoken: list[Spoken], tokens: list[tuple[int, ...]]) -> float:
    """Words (English) or characters (Chinese) wrong, of all that were said."""
    from predictor.text.output import OutputParser
    from predictor.text.tokenizer import TextTokenizer

    tokenizer = TextTokenizer.load(TINY)
    errors = total = 0
    for item, ids in zip(spoken, tokens, strict=True):
        parser = OutputParser(tokenizer, None)
        parser.add(ids, [0.0] * len(ids))
        heard = parser.finish()[1].text
        is_spaced = item.language == "English"
        said, heard_units = (t.split() if is_spaced else list(t) for t in (item.text, heard))
        errors += distance(said, heard_units)
        total += len(said)
    return errors / total


def distance(a: list[str], b: list[str]) -> int:
    """Insertions, deletions and substitutions between two texts."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            best = min(diagonal + (x != y), row[j] + 1, row[j - 1] + 1)
            diagonal, row[j] = row[j], best
    return row[-1]


def test_recordings_give_the_same_text_and_in_bfloat16_as_few_errors() -> None:
    spoken = recordings()
    requests = [item.request for item in spoken]
    options = EngineOptions(max_num_seqs=32, max_model_len=1024)
    with running(TINY, "cpu", "float32", options) as engine:
        expected = answers(engine, requests, at_once=16)
    with running(TINY, "cuda", "float32", options) as engine:
        assert answers(engine, requests, at_once=200) == expected
    with running(TINY, "cuda", "bfloat16", options) as engine:
        rounded = answers(engine, requests, at_once=200)
    exact_rate, rounded_rate = error_rate(spoken, expected), error_rate(spoken, rounded)
    same = sum(a == b for a, b in zip(rounded, expected, strict=True))
    print(
        f"{len(spoken)} recordings: errors {exact_rate:.2%} in float32, {rounded_rate:.2%} in "
        f"bfloat16; {same} token for token the same"
    )
    assert rounded_rate <= exact_rate + 0.005


def test_more_than_fits_waits_and_is_answered() -> None:
    options = EngineOptions(max_num_seqs=3, max_model_len=640)
    requests = [
        EngineRequest(str(i), clip(0.3 + (7 * i % 29), seed=i), (1,), (2,), max_new_tokens=30)
        for i in range(40)
    ]
    with running(TINY, "cuda", "float32", options) as engine:
        together = answers(engine, requests, at_once=40)
        assert answers(engine, requests[:10], at_once=1) == together[:10]
        assert engine.stats().num_finished == 50
