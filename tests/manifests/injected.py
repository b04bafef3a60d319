"""What goes wrong, for `faults`: servers that cannot keep up, hang, hear wrong or lack memory."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import soundfile
from websockets.exceptions import WebSocketException

from pipelines.lib.manifest import read_manifest
from tests.manifests.callers import Callers
from tests.manifests.objects import ROOT
from tests.manifests.stoppable import Loading, Server, Slow

CHECKPOINTS = ROOT / "predictor" / "checkpoints"
EVALUATION = ROOT / "tests" / "data" / "eval" / "manifest.jsonl"
Threads = list[threading.Thread]


@dataclass
class Fault:
    """What goes wrong, and which alerts it must fire."""

    what: str
    alerts: tuple[str, ...]
    flags: tuple[str, ...] = ()
    servers: tuple[type[Server], ...] = (Server,)
    on_gpu: bool = False
    checkpoint: Callable[[Path], Path] = field(default=lambda _: CHECKPOINTS / "tiny")
    inject: Callable[[list[Server], threading.Event], Threads] = field(default=lambda *_: [])


def repeat(call: Callable[[], Any], done: threading.Event, number: int) -> Threads:
    """Call on so many threads until it is over."""

    def run() -> None:
        while not done.is_set():
            with suppress(httpx.HTTPError, OSError, WebSocketException):
                call()

    threads = [threading.Thread(target=run, daemon=True) for _ in range(number)]
    for thread in threads:
        thread.start()
    return threads


def recordings() -> list[bytes]:
    return [Path(clip.audio).read_bytes() for clip in read_manifest(EVALUATION)]


def backwards() -> bytes:
    """A recording played backwards, as WAV."""
    samples, rate = soundfile.read(io.BytesIO(recordings()[0]), dtype="int16")
    file = io.BytesIO()
    soundfile.write(file, samples[::-1], rate, format="WAV")
    return file.getvalue()


def too_little_time(servers: list[Server], done: threading.Event) -> Threads:
    audio, [server] = recordings()[0], servers
    http = httpx.Client(base_url=server.url, timeout=60)
    headers = {"x-request-timeout-s": "0.001"}

    def call() -> None:
        http.post("/v1/audio/transcriptions", data={"model": "qwen3-asr"},
                  files={"file": ("a.flac", audio)}, headers=headers)  # fmt: skip

    return repeat(call, done, 2)


def flood(servers: list[Server], done: threading.Event) -> Threads:
    longest, callers = max(recordings(), key=len), Callers(servers[0])
    threads = repeat(lambda: callers.protocols["openai"](longest), done, 40)
    return threads + repeat(lambda: callers.live(longest), done, 2)


def nobody_answers(servers: list[Server], done: threading.Event) -> Threads:
    return _stop(servers[0], servers[0].pid, done)


def hung_engine(servers: list[Server], done: threading.Event) -> Threads:
    callers = Callers(servers[0])
    longest = max(recordings(), key=len)
    threads = repeat(lambda: callers.protocols["openai"](longest), done, 4)
    done.wait(3)
    pid = servers[0].engine()
    assert pid is not None
    return threads + _stop(servers[0], pid, done)


def _stop(server: Server, pid: int, done: threading.Event) -> Threads:
    def hold() -> None:
        with server.stopped(pid):
            done.wait()

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    return [thread]


def one_hears_it_backwards(servers: list[Server], done: threading.Event) -> Threads:
    clear, wrong = recordings()[0], backwards()
    threads: Threads = []
    for server, audio in zip(servers, (clear, wrong), strict=True):
        callers = Callers(server)
        send = callers.protocols["openai"]
        threads += repeat(lambda send=send, audio=audio: send(audio), done, 1)  # type: ignore[misc]
    return threads


def clips(servers: list[Server], done: threading.Event) -> Threads:
    clip, send = recordings()[0], Callers(servers[0]).protocols["openai"]
    return repeat(lambda: send(clip), done, 2)


def long_clips(servers: list[Server], done: threading.Event) -> Threads:
    clip, send = spoken(25.8), Callers(servers[0]).protocols["openai"]
    return repeat(lambda: send(clip), done, 8)


def clips_and_live(servers: list[Server], done: threading.Event) -> Threads:
    longest, callers = max(recordings(), key=len), Callers(servers[0])
    threads = many_short(servers, done)
    return threads + repeat(lambda: callers.live(longest, in_real_time=True), done, 6)


def many_short(servers: list[Server], done: threading.Event) -> Threads:
    clip, send = recordings()[0], Callers(servers[0]).protocols["openai"]
    return repeat(lambda: send(clip), done, 48)


_TAKE_THE_CARD = """
import sys, torch
held, size = [], 1 << 30
while size >= 1 << 24:
    try:
        held.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
    except torch.OutOfMemoryError:
        size //= 2
sys.stdin.read()
"""


def another_process_takes_the_card(servers: list[Server], done: threading.Event) -> Threads:
    def hold() -> None:
        command = [sys.executable, "-c", _TAKE_THE_CARD]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
            done.wait()
            process.kill()

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    return [thread]


def many_live(servers: list[Server], done: threading.Event) -> Threads:
    longest, callers = max(recordings(), key=len), Callers(servers[0])
    return repeat(lambda: callers.live(longest, in_real_time=True), done, 24)


def spoken(seconds: float) -> bytes:
    """So much speech without a pause, as WAV."""
    samples, rate = soundfile.read(io.BytesIO(recordings()[0]), dtype="int16")
    file = io.BytesIO()
    whole = np.resize(samples[rate // 4 : -rate // 4], round(seconds * rate))
    soundfile.write(file, whole, rate, format="WAV")
    return file.getvalue()


def _changed(folder: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> Path:
    """The embedded checkpoint with other weights and another config."""
    from safetensors.torch import load_file, save_file  # torch is slow to import

    made = folder / "checkpoint"
    shutil.copytree(CHECKPOINTS / "tiny", made)
    config = json.loads((made / "config.json").read_text())
    weights = load_file(made / "model.safetensors")
    change(config, weights)
    (made / "config.json").write_text(json.dumps(config))
    save_file(weights, made / "model.safetensors", {"format": "pt"})
    return made


def says_one_thing(folder: Path) -> Path:
    """Whatever it hears, each token is as likely as any other, so it repeats the first."""

    def change(_: dict[str, Any], weights: dict[str, Any]) -> None:
        weights["model.language_model.norm.weight"].zero_()

    return _changed(folder, change)


DEEP = 160  # layers, of which all but the first four do nothing but take time


def deep(folder: Path, num_layers: int = DEEP) -> Path:
    """Says the same, with more work and a larger cache for each token."""

    def change(config: dict[str, Any], weights: dict[str, Any]) -> None:
        text = config["text_config"]
        first = f"model.language_model.layers.{text['num_hidden_layers'] - 1}."
        last = {k.removeprefix(first): v for k, v in weights.items() if k.startswith(first)}
        for layer in range(text["num_hidden_layers"], num_layers):
            for name, weight in last.items():
                adds = name.endswith(("o_proj.weight", "down_proj.weight"))
                made = weight * 0 if adds else weight.clone()
                weights[f"model.language_model.layers.{layer}.{name}"] = made
        text["num_hidden_layers"] = num_layers
        text["layer_types"] = ["full_attention"] * num_layers

    return _changed(folder, change)


SMALL = ("--device=cpu", "--max_held_audio_s=600")
APART = ("--device=cpu", "--engine_process=true")
FAULTS = (
    Fault(
        "every request has a millisecond (`x-request-timeout-s`) and is answered with 504",
        ("Qwen3AsrBudgetBurnsFast", "Qwen3AsrBudgetBurnsSlowly"),
        SMALL,
        inject=too_little_time,
    ),
    Fault(
        "40 callers of the longest recording and two live sessions, more than two cores do",
        ("Qwen3AsrQueueGrows", "Qwen3AsrLoadHigh", "Qwen3AsrRequestsRefused"),
        SMALL,
        inject=flood,
    ),
    Fault(
        "24 live sessions, one sequence decoded at a time",
        ("Qwen3AsrLiveLags",),
        ("--device=cpu", "--max_num_seqs=1"),
        inject=many_live,
    ),
    Fault("SIGSTOP to the server", ("Qwen3AsrTargetDown",), SMALL, inject=nobody_answers),
    Fault(
        "SIGSTOP to the engine's process, with requests in the batch",
        ("Qwen3AsrEngineStalled",),
        (*APART, "--stall_timeout_s=600"),
        inject=hung_engine,
    ),
    Fault(
        "steps of 103 s of audio on a checkpoint of 160 layers, with `stall_timeout_s` 1",
        ("Qwen3AsrEngineStopped",),
        (*SMALL, "--max_num_seqs=4", "--stall_timeout_s=1"),
        checkpoint=deep,
        inject=long_clips,
    ),
    Fault(
        "SIGSTOP to the engine's process while it loads",
        ("Qwen3AsrNotReady",),
        APART,
        servers=(Loading,),
    ),
    Fault(
        "SIGSTOP to the engine's process for 8 s while it loads",
        ("Qwen3AsrColdStartSlow",),
        APART,
        servers=(Slow,),
    ),
    Fault(
        "a checkpoint whose last norm is zero",
        ("Qwen3AsrRepetition", "Qwen3AsrConfidenceLow"),
        (*SMALL, "--check_ready_clip=false"),
        checkpoint=says_one_thing,
        inject=clips,
    ),
    Fault(
        "one of two revisions hears speech backwards",
        ("Qwen3AsrConfidenceDrift",),
        SMALL,
        (Server, Server),
        inject=one_hears_it_backwards,
    ),
    Fault(
        "48 callers, one sequence at a time on a checkpoint of 16 layers",
        ("Qwen3AsrQueueSlow",),
        (*SMALL, "--max_num_seqs=1", "--stall_timeout_s=600"),
        checkpoint=lambda folder: deep(folder, 16),
        inject=many_short,
    ),
    Fault(
        "48 callers and six live sessions in a cache of a hundredth of the free memory, on a "
        "checkpoint of 40 layers",
        ("Qwen3AsrCacheFull",),
        (*SMALL, "--kv_memory_fraction=0.01", "--max_model_len=1024", "--segment_s=10"),
        checkpoint=lambda folder: deep(folder, 40),
        inject=clips_and_live,
    ),
    Fault(
        "another process takes all that is left of the card",
        ("Qwen3AsrGpuMemoryFull",),
        ("--device=cuda",),
        on_gpu=True,
        inject=another_process_takes_the_card,
    ),
)
