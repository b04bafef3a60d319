"""The store by itself: leases, bounds, and kill -9 in the middle of what it does."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from predictor.audio.limits import AudioOptions, CutOptions
from predictor.errors import NotFound, Overloaded, PayloadTooLarge
from predictor.jobs.records import JobSpec
from predictor.jobs.store import JobLimits, JobStore, LeaseLostError
from predictor.text.joining import Piece
from predictor.text.output import ParsedOutput
from predictor.types import AudioEnd, Usage

LIMITS = JobLimits(max_jobs=3, max_bytes=20_000, ttl_s=100.0, lease_s=10.0)
SPEC = JobSpec(
    "audio/wav", "English", "names", AudioOptions("separate", 1), CutOptions(), "srt", True
)
ME, OTHER = "me", "other"
ROOT = Path(__file__).parents[2]


def piece(position: int, text: str = "word") -> Piece:
    parsed = ParsedOutput(text, "English", 0.9, -0.1, 3, 0)
    start_s = 2.0 * position
    return Piece(start_s, start_s + 1.5, parsed, "stop", Usage(3, 9, 4), (1, 2), (-0.1, -0.2), 1, 0)


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[JobStore]:
    store = JobStore(tmp_path, LIMITS, clock)
    yield store
    store.close()


def test_what_goes_in_comes_out_of_a_store_that_is_opened_again(
    store: JobStore, tmp_path: Path, clock: Clock
) -> None:
    job = store.add("me", b"audio", SPEC)
    taken = store.take(ME)
    assert taken is not None
    assert (taken.id, taken.state, taken.spec) == (job.id, "running", SPEC)
    store.add_piece(job.id, ME, 0, piece(0))
    again = JobStore(tmp_path, LIMITS, clock)
    assert again.pieces(job.id) == {0: piece(0)}
    assert again.audio_path(job.id).read_bytes() == b"audio"
    end = AudioEnd(9.0, ("a note",), 0.5, 0.1)
    again.finish(job.id, ME, end, 1)
    done = store.job("me", job.id)
    assert (done.state, done.end, done.done_s, done.ended_s) == ("done", end, 9.0, clock.now)
    assert not again.audio_path(job.id).exists()
    again.close()


def test_jobs_are_counted_by_state_whoever_made_them(store: JobStore) -> None:
    assert store.counts() == {"queued": 0, "running": 0, "done": 0, "failed": 0}
    store.add("me", b"audio", SPEC)
    store.add("you", b"audio", SPEC)
    assert store.take(ME) is not None
    assert store.counts() == {"queued": 1, "running": 1, "done": 0, "failed": 0}


def test_progress_ends_at_the_first_piece_that_is_missing(store: JobStore) -> None:
    job = store.add("", b"audio", SPEC)
    store.take(ME)
    seen = []
    for position in (1, 0, 3, 2):
        store.add_piece(job.id, ME, position, piece(position))
        record = store.job("", job.id)
        seen.append((record.num_done, record.done_s))
    assert seen == [(0, 0.0), (2, 3.5), (2, 3.5), (4, 7.5)]


def test_a_lease_that_ran_out_is_another_runners_and_the_old_one_can_write_no_more(
    store: JobStore, clock: Clock
) -> None:
    job = store.add("", b"audio", SPEC)
    assert store.take(ME) is not None
    clock.now += LIMITS.lease_s - 1
    assert store.take(OTHER) is None
    store.renew(job.id, ME)
    clock.now += LIMITS.lease_s - 1
    assert store.take(OTHER) is None
    clock.now += 1
    taken = store.take(OTHER)
    assert taken is not None
    assert store.num_takes(job.id) == 2
    for write in (
        lambda: store.renew(job.id, ME),
        lambda: store.add_piece(job.id, ME, 0, piece(0)),
        lambda: store.finish(job.id, ME, AudioEnd(1.0), 0),
        lambda: store.fail(job.id, ME, {}),
        lambda: store.give_back(job.id, ME),
    ):
        with pytest.raises(LeaseLostError):
            write()
    assert store.pieces(job.id) == {}
    store.give_back(job.id, OTHER)
    assert store.take(ME) is not None


def test_a_deleted_job_takes_its_lease_pieces_and_recording_with_it(store: JobStore) -> None:
    job = store.add("owner", b"audio", SPEC)
    store.take(ME)
    store.add_piece(job.id, ME, 0, piece(0))
    with pytest.raises(NotFound, match="no such job"):
        store.delete("somebody", job.id)
    store.delete("owner", job.id)
    assert store.pieces(job.id) == {}
    assert not store.audio_path(job.id).exists()
    with pytest.raises(LeaseLostError):
        store.renew(job.id, ME)


def test_count_and_bytes_are_bounded_and_ended_jobs_go_with_time(
    store: JobStore, clock: Clock
) -> None:
    with pytest.raises(PayloadTooLarge, match="max_jobs_bytes of 20000"):
        store.add("", bytes(20_001), SPEC)
    first = store.add("", bytes(15_000), SPEC)
    with pytest.raises(Overloaded, match="max_jobs_bytes of 20000"):
        store.add("", bytes(6_000), SPEC)
    assert [path.name for path in store.audio_path("x").parent.iterdir()] == [first.id]
    store.take(ME)
    store.finish(first.id, ME, AudioEnd(1.0), 0)
    for _ in range(2):  # a recording that is no longer needed makes room
        store.add("", bytes(9_000), SPEC)
    with pytest.raises(Overloaded, match="max_jobs is 3"):
        store.add("", b"", SPEC)
    clock.now += LIMITS.ttl_s
    store.add("", b"", SPEC)
    assert first.id not in {job.id for job in store.jobs("")}
    clock.now += 100 * LIMITS.ttl_s
    store.sweep()
    assert len(store.jobs("")) == 3  # who waits is never dropped


def test_files_of_no_job_are_swept_when_they_are_old(store: JobStore, clock: Clock) -> None:
    job = store.add("", b"audio", SPEC)
    folder = store.audio_path(job.id).parent
    for name, age_s in (("old", 4000.0), ("old.part", 4000.0), ("new", 100.0), (job.id, 4000.0)):
        (folder / name).touch()
        os.utime(folder / name, (clock.now - age_s,) * 2)
    store.sweep()
    assert {path.name for path in folder.iterdir()} == {"new", job.id}


_WORKER = """
import sys
from pathlib import Path
from tests.jobs.test_store import SPEC, AudioEnd, JobLimits, JobStore, piece
store = JobStore(Path(sys.argv[1]), JobLimits(10**6, 10**9, 10**6, lease_s=0.0))
number = int(sys.argv[2])
while True:
    number += 1
    job = store.add("", b"%d" % number * 500, SPEC)
    print("added", job.id, number, flush=True)
    taken = store.take("worker")
    for position in range(3):
        if position not in store.pieces(taken.id):
            store.add_piece(taken.id, "worker", position, piece(position))
            print("piece", taken.id, position, flush=True)
    store.finish(taken.id, "worker", AudioEnd(6.0), 3)
    print("done", taken.id, flush=True)
"""


@pytest.mark.parametrize("seed", range(4))
def test_kill_9_at_any_line_loses_nothing_that_was_said_to_be_kept(
    tmp_path: Path, seed: int
) -> None:
    """A process that stores, works and finishes is killed after a random line, again and again."""
    rng = random.Random(seed)
    added: dict[str, int] = {}
    done: set[str] = set()
    pieces: list[tuple[str, str]] = []
    for _ in range(4):
        command = [sys.executable, "-c", _WORKER, str(tmp_path), str(len(added))]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(rng.randint(1, 15))]
        process.kill()
        lines += process.stdout.readlines()
        process.stdout.close()
        process.wait(timeout=600)
        for line in lines:
            what, job_id, *more = line.split()
            if what == "added":
                added[job_id] = int(more[0])
            elif what == "piece":
                pieces.append((job_id, more[0]))
            else:
                done.add(job_id)
    assert len(set(pieces)) == len(pieces), "a kept piece was done again"
    store = JobStore(tmp_path, JobLimits(10**6, 10**9, 10**6))
    jobs = {job.id: job for job in store.jobs("")}
    assert set(added) <= set(jobs)
    assert done <= {job.id for job in jobs.values() if job.state == "done"}
    for job_id, position in pieces:
        assert store.pieces(job_id)[int(position)] == piece(int(position))
    for job in jobs.values():
        if job.state == "done":
            assert len(store.pieces(job.id)) == 3
        elif job.id in added:
            assert store.audio_path(job.id).read_bytes() == b"%d" % added[job.id] * 500
    store.close()


_FULL = """
import os, sys
from pathlib import Path
from predictor.errors import Overloaded
from predictor.jobs.store import JobLimits, JobStore
from tests.jobs.test_store import SPEC

folder = Path(sys.argv[1])
store = JobStore(folder / "jobs", JobLimits(1000, 1 << 30, 100.0))
first = store.add("me", bytes(100_000), SPEC)

def refused(work):
    try:
        while True:
            work()
    except Overloaded as error:
        return error.message

said = refused(lambda: store.add("me", os.urandom(100_000), SPEC))
assert said == "the disk of jobs is full", said
audio = list((folder / "jobs" / "audio").iterdir())
assert len(audio) == len(store.jobs("me")), audio  # nothing is left of the one that was refused
with open(folder / "fill", "wb", buffering=0) as file:
    try:
        while True:
            file.write(bytes(512))
    except OSError:
        pass
assert refused(lambda: store.take("runner")) == "the disk of jobs is full"
(folder / "fill").unlink()
assert store.take("runner").id == first.id  # as soon as there is room
"""


def test_a_full_disk_refuses_jobs_and_loses_none(tmp_path: Path) -> None:
    """A file system of the kernel's of one megabyte, in a name space of its own."""
    own = ["unshare", "--user", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*own, "true"]).returncode:
        pytest.skip("needs unshare and user name spaces")
    script = 'mount -t tmpfs -o size=1m tmpfs "$1" && exec "$2" -c "$3" "$1"'
    command = [*own, "sh", "-c", script, "sh", str(tmp_path), sys.executable, _FULL]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
