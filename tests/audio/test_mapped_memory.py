"""What is read of a recording on disk leaves the process's memory again: the kernel's count."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from predictor.api.multipart import read_parts
from predictor.audio.file_part import MappedFile, forget
from predictor.audio.job import Job
from predictor.audio.limits import AudioLimits, AudioOptions, CutOptions
from predictor.audio.process import Worker
from predictor.jobs.records import JobSpec
from predictor.jobs.store import JobLimits, JobStore

MIB = 1 << 20
SIZE = 32 * MIB
ROOM = 6 * MIB  # what may be in use, and what else the process reads meanwhile


def of_files(pid: int | str = "self") -> int:
    """Resident bytes of a process that belong to files, in memory or on disk."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = dict(line.split(":", 1) for line in lines)
    return sum(int(found[name].split()[0]) for name in ("RssFile", "RssShmem")) * 1024


@pytest.fixture
def form(tmp_path: Path) -> MappedFile:
    """A form with a recording of SIZE bytes, on disk."""
    path = tmp_path / "form"
    block = np.random.default_rng(0).bytes(MIB)
    with path.open("wb") as file:
        file.write(b'--b\r\ncontent-disposition: form-data; name=file; filename="a"\r\n\r\n')
        for _ in range(SIZE // MIB):
            file.write(block)
        file.write(b"\r\n--b--\r\n")
    return MappedFile(path.open("rb"))


def test_a_form_that_was_searched_is_not_held(form: MappedFile) -> None:
    before = of_files()
    [part] = read_parts(form, "multipart/form-data; boundary=b", 1)
    assert of_files() < before + ROOM
    assert len(part.data) == SIZE
    touched = bytes(part.data[: SIZE // 2])
    assert of_files() > before + SIZE // 2 - ROOM  # so the kernel does count what is read
    forget(part.data[: SIZE // 2])
    assert of_files() < before + ROOM
    assert part.data[: SIZE // 2] == touched  # and it can be read again
    forget(memoryview(touched))


def test_a_job_that_was_stored_is_not_held(form: MappedFile, tmp_path: Path) -> None:
    [part] = read_parts(form, "multipart/form-data; boundary=b", 1)
    store = JobStore(tmp_path / "jobs", JobLimits(1, 2 * SIZE, 1.0))
    spec = JobSpec("audio/wav", None, "", AudioOptions(), CutOptions(), "json", False)
    before = of_files()
    job = store.add("me", part.data, spec)
    assert of_files() < before + ROOM
    assert store.audio_path(job.id).read_bytes() == part.data
    store.close()


@pytest.mark.parametrize("on_disk", [True, False])
def test_a_decoder_does_not_hold_what_it_has_decoded(tmp_path: Path, on_disk: bool) -> None:
    """Eight channels of WAV; the decoder asks for more when it is almost through."""
    path, seconds = tmp_path / "a.wav", SIZE // (8 * 4 * 16_000)
    soundfile.write(path, np.zeros((seconds * 16_000, 8), np.float32), 16_000, subtype="FLOAT")
    data = memoryview(MappedFile(path.open("rb"))) if on_disk else path.read_bytes()
    job = Job(
        "wav", None, AudioLimits(), AudioOptions(), CutOptions(vad="energy"), seconds - 12.0, "a"
    )
    worker = Worker()
    try:
        worker.wait_ready()
        before = of_files(worker.pid)
        worker.begin(job, data)
        message, _ = worker.receive(60)
        assert message.kind == "more"
        assert message.decoded_s > seconds - 12
        assert of_files(worker.pid) < before + 2 * ROOM
        worker.answer(None)
    finally:
        worker.close()
