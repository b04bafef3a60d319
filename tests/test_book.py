"""What the fronts of a pod know of each other, through real shared memory and real processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from predictor.book import Book
from predictor.errors import Overloaded
from predictor.metrics import Metrics
from predictor.processes import num_cpus
from predictor.service.admission import Admission
from predictor.settings.read import load_settings
from predictor.settings.transfer import from_json, to_json

ROOT = Path(__file__).parents[1]


def test_what_another_process_holds_counts(tmp_path: Path) -> None:
    path = tmp_path / "book"
    book = Book(path, num_fronts=3, index=0)
    script = "import sys; from predictor.book import Book; from pathlib import Path\n"
    script += "Book(Path(sys.argv[1]), 3, 1).hold(12.5)"
    subprocess.run([sys.executable, "-c", script, str(path)], cwd=ROOT, check=True)
    book.hold(4.0)
    assert book.others_held_audio_s == 12.5
    book.clear(1)
    assert book.others_held_audio_s == 0.0


def test_one_limit_for_all_fronts(tmp_path: Path) -> None:
    fronts = [
        Admission(10.0, Metrics(CollectorRegistry()), Book(tmp_path / "book", 2, index))
        for index in range(2)
    ]
    with fronts[0].hold(6.0):
        said = "6 s of audio are waiting or running; 5 s more"
        with pytest.raises(Overloaded, match=said), fronts[1].hold(5.0):
            pass
        with fronts[1].hold(4.0):
            assert fronts[0].pod_held_audio_s == fronts[1].pod_held_audio_s == 10.0
    # An empty pod takes any one recording.
    with fronts[1].hold(30.0), pytest.raises(Overloaded), fronts[0].hold(1.0):
        pass
    assert fronts[0].pod_held_audio_s == 0.0


_TAKES = """
import sys, threading
from pathlib import Path
from prometheus_client import CollectorRegistry
from predictor.book import Book
from predictor.errors import Overloaded
from predictor.live.hub import LiveHub
from predictor.metrics import Metrics
from predictor.service.admission import Admission
book = Book(Path(sys.argv[1]), 4, int(sys.argv[2]))
metrics = Metrics(CollectorRegistry())
admission = Admission(100.0, metrics, book)
print("up", flush=True)
sys.stdin.read(1)
most = 0.0
for _ in range(8000):
    try:
        with admission.hold(30.0):
            most = max(most, admission.pod_held_audio_s)
    except Overloaded:
        pass
print(most)
"""


def test_fronts_that_admit_at_the_same_moment_never_hold_more_than_the_limit(
    tmp_path: Path,
) -> None:
    """Four real processes, 32,000 admissions of 30 s under a limit of 100 s."""
    Book(tmp_path / "book", 4, 0)
    fronts = [
        subprocess.Popen(
            [sys.executable, "-c", _TAKES, str(tmp_path / "book"), str(index)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for index in range(4)
    ]  # fmt: skip
    for front in fronts:
        assert front.stdout is not None
        assert front.stdout.readline() == "up\n"
    for front in fronts:
        assert front.stdin is not None
        front.stdin.write("g")
        front.stdin.flush()
    said = [front.communicate(timeout=600)[0] for front in fronts]
    assert [front.returncode for front in fronts] == [0] * 4
    assert 30.0 <= max(map(float, said)) <= 90.0


def test_a_front_that_dies_inside_leaves_the_book_to_the_others(tmp_path: Path) -> None:
    book = Book(tmp_path / "book", 2, 0)
    script = "import os, signal, sys; from predictor.book import Book; from pathlib import Path\n"
    script += "book = Book(Path(sys.argv[1]), 2, 1)\n"
    script += "with book.exclusive(): os.kill(os.getpid(), signal.SIGKILL)"
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "book")], cwd=ROOT)
    assert done.returncode == -9
    with book.exclusive():
        pass


def test_a_pod_is_ready_when_none_of_its_fronts_starts(tmp_path: Path) -> None:
    pod = Book(tmp_path / "book", 2, 0)
    pod.starts(0)
    pod.starts(1)
    fronts = [Book(tmp_path / "book", 2, index) for index in range(2)]
    fronts[0].is_ready()
    assert not fronts[0].nobody_starts()
    fronts[1].is_ready()
    assert fronts[0].nobody_starts()
    pod.clear(1)  # it died; the others are ready all the same
    assert fronts[0].nobody_starts()


def test_settings_reach_a_front_as_they_were_read() -> None:
    flags = ["--model_dir=/a/b", "--devices=0,1", "--high_pass_hz=80", "--num_threads=auto"]
    settings = load_settings(flags, {"QWEN3_ASR_API_KEYS": "one,two"})
    received = from_json(to_json(settings))
    for name in to_json(settings):
        assert getattr(received, name) == getattr(settings, name), name
    assert received.api_keys == ("one", "two")


@pytest.mark.parametrize(("quota", "most"), [("150000 100000", 2), ("50000 100000", 1), ("max", 0)])
def test_cpus_are_those_of_the_container(tmp_path: Path, quota: str, most: int) -> None:
    everything = num_cpus(tmp_path)
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text(quota + "\n")
    assert num_cpus(tmp_path) == (min(everything, most) if most else everything)
