"""Workers that crash, hang or are killed cost only the recording they had; nothing is left."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from predictor.audio.decode import AudioDecoder, AudioLimits
from predictor.audio.pool import PoolObserver
from predictor.errors import AudioError, NotReady, Overloaded
from predictor.types import AudioPiece, Samples

StartDecoder = Callable[..., AudioDecoder]


def ended(pidfd: int) -> bool:
    """Whether the process ends within a minute; returns as soon as it does."""
    return bool(select.select([pidfd], [], [], 60)[0])


def test_a_hanging_decoder_is_killed_and_replaced(
    start_decoder: StartDecoder, files: dict[str, bytes]
) -> None:
    decoder = start_decoder(AudioLimits(decode_timeout_s=0.3))
    [pid] = decoder.worker_pids
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(AudioError, match=r"takes longer than 0\.3 s") as caught:
        asyncio.run(decoder.decode(files["mp3"]))
    assert (caught.value.field, caught.value.limit) == ("audio", 0.3)
    assert decoder.worker_pids != [pid]
    assert len(asyncio.run(start_decoder().decode(files["mp3"]))) > 30_000


async def signal_while_decoding(decoder: AudioDecoder, data: bytes, signum: int) -> Samples:
    """Stop the worker, hand it `data`, and let it wake up to a signal."""
    [pid] = decoder.worker_pids
    os.kill(pid, signal.SIGSTOP)
    task = asyncio.create_task(decoder.decode(data))
    await asyncio.sleep(0)  # the job is on its way to the stopped worker
    os.kill(pid, signum)
    os.kill(pid, signal.SIGCONT)
    return await task


def test_a_crash_is_an_error_of_that_recording_alone(
    start_decoder: StartDecoder, files: dict[str, bytes]
) -> None:
    busy: list[tuple[str, int]] = []
    replaced: list[None] = []
    observer = PoolObserver(lambda *each: busy.append(each), lambda: replaced.append(None))
    decoder = start_decoder(observer=observer)
    [pid] = decoder.worker_pids
    with pytest.raises(AudioError, match="mp3 decoder crashed on this audio"):
        asyncio.run(signal_while_decoding(decoder, files["mp3"], signal.SIGSEGV))
    assert decoder.worker_pids != [pid]
    assert (busy, replaced) == ([("short", 1), ("short", -1)], [None])
    assert len(asyncio.run(decoder.decode(files["mp3"]))) > 30_000


def test_a_worker_killed_by_others_is_replaced_unnoticed(
    start_decoder: StartDecoder, files: dict[str, bytes]
) -> None:
    decoder = start_decoder()
    [pid] = decoder.worker_pids
    os.kill(pid, signal.SIGKILL)
    assert len(asyncio.run(decoder.decode(files["mp3"]))) > 30_000
    samples = asyncio.run(signal_while_decoding(decoder, files["mp3"], signal.SIGKILL))
    assert len(samples) > 30_000
    assert pid not in decoder.worker_pids


def test_workers_die_with_a_server_that_is_killed() -> None:
    script = (
        "import sys; from predictor.audio.pool import DecoderPool\n"
        "pool = DecoderPool(2, 1); pool.start()\n"
        "print(*pool.pids, flush=True); sys.stdin.read()"
    )
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        pids = [int(word) for word in server.stdout.readline().split()]
        assert len(pids) == 2
        pidfds = [os.pidfd_open(pid) for pid in pids]
        os.kill(pids[0], signal.SIGSTOP)  # one is busy; it sees the end when it is done
        server.kill()
    assert ended(pidfds[1])
    os.kill(pids[0], signal.SIGCONT)
    assert ended(pidfds[0])
    for pidfd in pidfds:
        os.close(pidfd)


def test_workers_are_small_and_know_no_secrets(
    start_decoder: StartDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWEN3_ASR_API_KEYS", "secret")
    [pid] = start_decoder().worker_pids
    process = Path(f"/proc/{pid}")
    assert b"secret" not in (process / "environ").read_bytes()
    mapped = (process / "maps").read_text(encoding="utf-8")
    assert "libtorch" not in mapped
    assert "libav" in mapped


def test_no_file_descriptor_is_left_open(
    start_decoder: StartDecoder, files: dict[str, bytes]
) -> None:
    decoder = start_decoder()

    def decode_some() -> None:
        asyncio.run(decoder.decode(files["opus.ogg"]))
        with pytest.raises(AudioError):
            asyncio.run(decoder.decode(files["mp3"][:60]))

    decode_some()
    [pid] = decoder.worker_pids
    folders = [Path("/proc/self/fd"), Path(f"/proc/{pid}/fd")]

    def num_open() -> list[int]:
        gc.collect()
        return [len(list(folder.iterdir())) for folder in folders]

    before = num_open()
    for _ in range(5):
        decode_some()
    assert num_open() == before


async def test_many_at_once_leave_the_event_loop_free(
    start_decoder: StartDecoder, files: dict[str, bytes]
) -> None:
    decoder = start_decoder(num_workers=2)
    names = ["opus.ogg", "mp3", "m4a", "webm", "stereo.flac", "vorbis.ogg", "mp4", "wav"]
    alone = {name: await decoder.decode(files[name]) for name in names}
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.02)  # its own work must not count

    ticker = asyncio.create_task(tick())
    before_s = time.thread_time()
    answers = await asyncio.gather(*(decoder.decode(files[name]) for name in names * 4))
    loop_s = time.thread_time() - before_s
    ticker.cancel()
    for name, samples in zip(names * 4, answers, strict=True):
        assert np.array_equal(samples, alone[name])
    # On the loop's thread even the decoding alone, without resampling, would cost more than this.
    assert loop_s < 0.5 * await asyncio.to_thread(cost_of, [files[name] for name in names * 4])
    assert ticks > 1


def cost_of(recordings: list[bytes]) -> float:
    """CPU seconds of decoding them in the thread that calls."""
    start = time.thread_time()
    for data in recordings:
        with av.open(io.BytesIO(data)) as container:
            for frame in container.decode(audio=0):
                frame.to_ndarray()
    return time.thread_time() - start


async def test_who_leaves_the_queue_is_not_decoded(
    start_decoder: StartDecoder, files: dict[str, bytes]
) -> None:
    decoder = start_decoder()
    [pid] = decoder.worker_pids
    os.kill(pid, signal.SIGSTOP)
    running = asyncio.create_task(decoder.decode(files["mp3"]))
    waiting = [asyncio.create_task(decoder.decode(files["mp3"])) for _ in range(20)]
    await asyncio.sleep(0)
    for task in [*waiting, running]:
        task.cancel()
    results = await asyncio.gather(*waiting, running, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    os.kill(pid, signal.SIGCONT)
    assert len(await decoder.decode(files["wav"])) == 32_000
    assert len(await decoder.decode(files["mp3"])) > 30_000
    assert decoder.worker_pids == [pid]


async def test_the_queue_is_bounded_in_bytes(
    start_decoder: StartDecoder, files: dict[str, bytes]
) -> None:
    data = files["flac"]
    decoder = start_decoder(AudioLimits(max_pending_bytes=3 * len(data)))
    tasks = [asyncio.create_task(decoder.decode(data)) for _ in range(5)]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    refused = [result for result in results if isinstance(result, Overloaded)]
    assert len(refused) == 2
    assert f"the limit is {3 * len(data)}" in refused[0].message
    assert sum(isinstance(result, np.ndarray) for result in results) == 3
    assert len(await decoder.decode(data)) == 32_000  # there is room again


async def test_closing_ends_what_is_under_way(
    start_decoder: StartDecoder, files: dict[str, bytes]
) -> None:
    decoder = start_decoder()
    [pid] = decoder.worker_pids
    pidfd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGSTOP)
    task = asyncio.create_task(decoder.decode(files["mp3"]))
    await asyncio.sleep(0)
    with ThreadPoolExecutor(1) as threads:
        await asyncio.get_running_loop().run_in_executor(threads, decoder.close)
    with pytest.raises((NotReady, asyncio.CancelledError)):
        await task
    assert ended(pidfd)
    os.close(pidfd)


class Unbounded:
    """All the credit that a recording wants."""

    async def grow(self, audio_s: float, kept_s: float) -> None:
        pass

    def release(self, audio_s: float) -> None:
        pass


@pytest.mark.parametrize(
    ("name", "kind"), [("flac", "int16"), ("wav", "float32"), ("mp3", "float32")]
)
async def test_what_came_in_as_16_bits_at_16_khz_is_handed_on_in_16_bits(
    start_decoder: StartDecoder, files: dict[str, bytes], name: str, kind: str
) -> None:
    """The WAV has 44.1 kHz, the MP3 no samples of its own; libsndfile says what the FLAC holds."""
    decoder = start_decoder()
    pieces = decoder.pieces(decoder.source(files[name]), Unbounded())
    [piece] = [item async for item in pieces if isinstance(item, AudioPiece)]
    assert piece.samples.dtype == kind
    if kind == "int16":
        read, rate_hz = soundfile.read(io.BytesIO(files[name]), dtype="int16")
        start = round(piece.start_s * rate_hz)
        assert np.array_equal(piece.samples, read[start : start + len(piece.samples)])


def test_decoders_give_way_to_who_serves(start_decoder: StartDecoder) -> None:
    """There may be more of them at work than there are processors for."""
    [pid] = start_decoder().worker_pids
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    assert os.getpriority(os.PRIO_PROCESS, pid) == min(19, ours + 5)
