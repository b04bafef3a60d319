"""One client over several cores; and what callers hear when things end while a step runs."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from predictor.engine import EngineClient, EngineCore
from predictor.engine.runner import TorchRunner
from predictor.errors import InternalError, NotReady
from predictor.model.model import Model
from predictor.types import ExtendRequest
from tests.engine.asking import OPTIONS, Known, reached, renamed, tokens_of, until
from tests.engine.conftest import StartEngine
from tests.engine.faulty import FaultyRunner, Gate, Ids

ROOT = Path(__file__).parents[2]


@pytest.fixture
def runners(model: Model) -> list[FaultyRunner]:
    """Two devices, as far as anybody can tell."""
    size = {"num_slots": OPTIONS.max_num_seqs, "max_model_len": OPTIONS.max_model_len}
    return [FaultyRunner(TorchRunner(model, **size)) for _ in range(2)]


@pytest.fixture
def client(runners: list[FaultyRunner]) -> Iterator[EngineClient]:
    cores = [EngineCore(r, OPTIONS, device=f"cpu:{i}") for i, r in enumerate(runners)]
    client = EngineClient(cores)
    client.start()
    yield client
    client.stop()


def seen_by(runner: FaultyRunner) -> set[str]:
    return {request_id for _, ids in runner.steps for request_id in ids}


async def test_a_request_goes_to_the_core_that_holds_the_least_audio(
    runners: list[FaultyRunner], client: EngineClient, known: list[Known]
) -> None:
    gates = [Gate("decode"), Gate("decode")]
    for runner, gate in zip(runners, gates, strict=True):
        runner.before = gate
    long = client.submit(renamed(known[1], "30 s"))
    short = [client.submit(renamed(known[0], f"1 s, {i}")) for i in range(5)]
    held = [core.stats() for core in client.cores]
    sums = sorted(stats.waiting_audio_s + stats.running_audio_s for stats in held)
    assert sums == pytest.approx([5.0, 30.0])
    assert client.stats().num_slots == 2 * OPTIONS.max_num_seqs
    for gate in gates:
        gate.open()
    assert await tokens_of(long) == known[1].tokens
    for stream in short:
        assert await tokens_of(stream) == known[0].tokens
    assert sorted(map(len, map(seen_by, runners))) == [1, 5]
    assert [core.device for core in client.cores] == ["cpu:0", "cpu:1"]


async def test_without_load_every_core_gets_its_turn(
    runners: list[FaultyRunner], client: EngineClient, known: list[Known]
) -> None:
    streams = [client.submit(renamed(known[7], f"s{i}")) for i in range(12)]
    for stream in streams:
        assert await tokens_of(stream) == known[7].tokens
    assert all(map(seen_by, runners))


async def test_a_core_that_fails_leaves_the_work_to_the_others(
    runners: list[FaultyRunner], client: EngineClient, known: list[Known]
) -> None:
    def fail(phase: str, ids: Ids) -> None:
        raise RuntimeError("an illegal memory access was encountered")

    runners[0].before, runners[0].recovers = fail, False
    first = client.submit(renamed(known[7], "first"))
    await asyncio.gather(tokens_of(first), return_exceptions=True)
    await until(lambda: not client.cores[0].is_alive())
    assert client.is_serving()
    assert not client.is_alive(), "somebody must look after the one that is dead"
    assert await tokens_of(client.submit(renamed(known[7], "second"))) == known[7].tokens


async def test_a_request_that_one_core_refuses_goes_to_the_other(
    client: EngineClient, known: list[Known], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It serves when it is asked, and ends before the request arrives."""
    for core in client.cores:
        monkeypatch.setattr(core, "is_serving", lambda: True)
    client.cores[0].stop()
    streams = [client.submit(renamed(known[7], f"s{i}")) for i in range(4)]
    for stream in streams:
        assert await tokens_of(stream) == known[7].tokens
    step = ExtendRequest("step", "kept", known[7].request.samples, (1,), (2,), 3)
    await tokens_of(client.extend(step))
    client.cores[1].stop()
    with pytest.raises(NotReady):
        client.submit(renamed(known[7], "nobody"))
    with pytest.raises(NotReady):
        client.extend(replace(step, request_id="later"))
    assert client.stats().num_running == client.stats().num_waiting == 0


@pytest.mark.parametrize("recovers", [True, False])
async def test_a_step_that_fails_while_the_engine_stops_leaves_nobody_waiting(
    runner: TorchRunner, known: list[Known], start_engine: StartEngine, recovers: bool
) -> None:
    faulty = FaultyRunner(runner, recovers=recovers)
    gate = Gate("decode")

    def fail(phase: str, ids: Ids) -> None:
        gate(phase, ids)
        if phase == "decode":
            raise RuntimeError("the device said no")

    faulty.before = fail
    engine = start_engine(faulty)
    stream = engine.submit(known[2].request)
    await anext(stream)
    await reached(gate)
    stopping = threading.Thread(target=engine.stop)
    stopping.start()
    await until(lambda: not engine.is_serving())
    gate.open()
    with pytest.raises(NotReady if recovers else InternalError):
        await asyncio.wait_for(tokens_of(stream), 30)
    await asyncio.to_thread(stopping.join)


async def test_an_engine_that_was_stopped_gives_the_device_s_memory_back_at_once(
    model: Model, known: list[Known]
) -> None:
    runner = FaultyRunner(TorchRunner(model, num_slots=1, max_model_len=OPTIONS.max_model_len))
    memory = weakref.ref(runner)
    gc.disable()  # which would come to it some time
    try:
        client = EngineClient([EngineCore(runner, OPTIONS)])
        client.start()
        assert await tokens_of(client.submit(known[7].request)) == known[7].tokens
        client.stop()
        del client, runner
        assert memory() is None
    finally:
        gc.enable()


_EXITS = {
    "a step that outlives stop": """
from predictor.engine import EngineClient, EngineCore
from predictor.engine.runner import TorchRunner
from predictor.model.checkpoint.weights import load_model
from tests.engine.asking import OPTIONS, pool
from tests.engine.faulty import FaultyRunner
size = {"num_slots": OPTIONS.max_num_seqs, "max_model_len": OPTIONS.max_model_len}
model = load_model(Path(sys.argv[1]), device="cpu", dtype=torch.float32)
runner = FaultyRunner(TorchRunner(model, **size), before=lambda phase, ids: compute())
engine = EngineClient([EngineCore(runner, OPTIONS)])
engine.start()
async def ask():
    engine.submit(pool()[0])
    await asyncio.to_thread(computing.wait)
asyncio.run(ask())
engine.stop(timeout_s=0.01)
""",
    "loading": """
from predictor.service.loading import Loading
from predictor.settings.read import load_settings
settings = load_settings(["--model_dir", sys.argv[1], "--device=cpu"], {})
Loading(settings, lambda *_: compute())
computing.wait()
""",
}


@pytest.mark.parametrize("owner", _EXITS)
def test_whoever_owns_a_thread_inside_torch_waits_for_it_at_the_end(
    native: Path, owner: str
) -> None:
    """Real torch: without that CPython unwinds the thread, and the process aborts (134)."""
    script = """
import asyncio, sys, threading, time
from pathlib import Path
import torch
torch.set_num_threads(1)
computing = threading.Event()
def compute():
    end_s = time.monotonic() + 1.5
    square = torch.randn(400, 400)
    while time.monotonic() < end_s:
        square @ square
        computing.set()
"""
    done = subprocess.run(
        [sys.executable, "-c", script + _EXITS[owner], str(native)],
        cwd=ROOT, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_thread_has_ended_when_the_interpreter_ends(native: Path) -> None:
    """One that is inside a device's library then would abort the process."""
    script = (
        "import asyncio, atexit, sys, threading\n"
        "names = lambda: [thread.name for thread in threading.enumerate()]\n"
        "atexit.register(lambda: print('at the end:', names()))\n"
        "from tests.engine.test_client import *\n"
        "from tests.engine.asking import pool\n"
        "from predictor.engine import build_engine\n"
        "engine = EngineClient([build_engine(Path(sys.argv[1]), 'cpu', 'float32', OPTIONS)])\n"
        "engine.start()\n"
        "async def ask():\n"
        "    await anext(engine.submit(pool()[4]))\n"
        "asyncio.run(ask())\n"
        "print('before:', names())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(native)],
        cwd=ROOT, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    before, at_the_end = done.stdout.splitlines()
    assert "'engine'" in before
    assert "'engine'" not in at_the_end
