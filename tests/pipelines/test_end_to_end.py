"""Real predictors on the embedded checkpoints, judged and rolled out: nothing in between is made up
but the cluster.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipelines.cli import main
from pipelines.lib.client import ServiceOptions, encode_v2
from pipelines.lib.errors import PipelineError
from pipelines.lib.evaluation import read_report
from pipelines.lib.journal import read_journal
from pipelines.lib.manifest import read_manifest
from pipelines.lib.transcribe import transcribe
from pipelines.local_service import LocalService
from tests.pipelines.conftest import Serve
from tests.pipelines.fake_cluster import FakeCluster
from tests.pipelines.fake_controller import NAMESPACE, inference_service
from tests.pipelines.proxy import Proxy
from tests.pipelines.recordings import write_small_set
from tests.pipelines.service import Service
from tests.pipelines.test_promote import FEW, FEW_LIMITS, write_clips, write_kubeconfig

ROOT = Path(__file__).parents[2]
CHECKPOINTS = ROOT / "predictor" / "checkpoints"
TINY, EARLY = "s3://models/tiny", "s3://models/tiny-early"
PATIENT = [*FEW, "--wer-margin=0.3", "--attempts=3", "--concurrency=4", "--resamples=1000"]


@pytest.fixture(scope="module")
def predictors() -> Iterator[dict[str, str]]:
    """URLs of two predictors by the storage URI that they stand for."""
    flags = ("--device=cpu",)
    with (
        LocalService(CHECKPOINTS / "tiny", flags=flags) as tiny,
        LocalService(CHECKPOINTS / "tiny-early", flags=flags) as early,
    ):
        yield {TINY: tiny.url, EARLY: early.url}


@pytest.fixture(scope="module")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_set(tmp_path_factory.mktemp("set"), per_language=16, non_speech=6)


class Gateway:
    """The fake cluster in front of the predictors, reached as kubectl and users reach it."""

    def __init__(
        self, folder: Path, serve_app: Serve, predictors: dict[str, str], mode: str, stable: str
    ) -> None:
        self.cluster = FakeCluster(inference_service(mode, stable))
        self.proxy = Proxy(self.cluster, predictors)
        self.url = serve_app(self.proxy.app())
        self.kubeconfig = write_kubeconfig(folder / "kubeconfig", serve_app(self.cluster.app()))


class Caller:
    """A user who sends one recording after the other to the service's own host."""

    def __init__(self, gateway: Gateway, audio: Path) -> None:
        self._gateway = gateway
        self._request = encode_v2(audio.read_bytes(), None, "")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._call)
        self.answers: list[tuple[int, str]] = []

    def __enter__(self) -> Caller:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._thread.join()

    def _call(self) -> None:
        body, headers = self._request
        host = {"Host": self._gateway.cluster.host}
        with httpx.Client(base_url=self._gateway.url, timeout=60) as http:
            while not self._over.wait(0.05):  # a user, not a load test
                path = "/v2/models/qwen3-asr/infer"
                answer = http.post(path, content=body, headers={**headers, **host})
                self.answers.append((answer.status_code, answer.text))


def test_protocols_agree(tmp_path: Path, predictors: dict[str, str], small_set: Path) -> None:
    clips = read_manifest(small_set)[::6]
    texts = {}
    for protocol in ("v2", "openai", "openai-stream"):
        options = ServiceOptions(predictors[TINY], protocol=protocol)  # type: ignore[arg-type]
        records = transcribe(clips, options, tmp_path / f"{protocol}.jsonl")
        assert [r.error for r in records] == [None] * len(clips)
        texts[protocol] = [r.text for r in records]
        if protocol == "openai-stream":
            assert all(r.ttft_s is not None for r in records if r.text)
        if protocol == "v2":
            assert all(r.confidence is not None and r.finish_reason for r in records)
    assert texts["v2"] == texts["openai"] == texts["openai-stream"]


def test_the_better_checkpoint_is_promoted_without_a_failed_request(
    tmp_path: Path,
    serve_app: Serve,
    predictors: dict[str, str],
    small_set: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    gateway = Gateway(tmp_path, serve_app, predictors, "Standard", EARLY)
    audio = Path(read_manifest(small_set)[0].audio)
    with Caller(gateway, audio) as caller:
        code = main(
            [
                "promote", "qwen3-asr", f"--namespace={NAMESPACE}", "--quiet",
                f"--kubeconfig={gateway.kubeconfig}", f"--storage-uri={TINY}",
                f"--ingress={gateway.url}", f"--data={small_set}", f"--out={tmp_path / 'out'}",
                "--steps=50,100", "--soak-s=1", "--poll-s=0.05", "--json", *PATIENT,
                "--split-samples=40",
            ]
        )  # fmt: skip
    result = json.loads(capsys.readouterr().out)
    assert code == 0, result
    assert gateway.cluster.split() == {TINY: 100}
    assert {status for status, _ in caller.answers} == {200}
    (folder,) = (tmp_path / "out").iterdir()
    stable, candidate = (
        read_report(folder / name / "report.json")["summary"] for name in ("stable", "candidate")
    )
    better, worse = (found["by_metric"] for found in (candidate, stable))
    assert better["wer"]["rate"] < worse["wer"]["rate"] / 2
    assert better["cer"]["rate"] <= worse["cer"]["rate"]
    assert candidate["hallucination"]["of"] == 6
    assert stable["failures"]["count"] == candidate["failures"]["count"] == 0
    page = (folder / "stable" / "report.html").read_text()
    assert "data:audio/ogg;base64," in page


@pytest.mark.soak  # with answers that are made up: test_kfp.py
@pytest.mark.parametrize(
    ("stable", "candidate", "verdict"),
    [(EARLY, TINY, "promoted"), (TINY, EARLY, "rolled-back")],
)
def test_the_pipeline_promotes_the_better_and_refuses_the_worse(
    tmp_path: Path,
    kfp_outputs: Path,
    serve_app: Serve,
    predictors: dict[str, str],
    small_set: Path,
    monkeypatch: pytest.MonkeyPatch,
    stable: str,
    candidate: str,
    verdict: str,
) -> None:
    from pipelines.definitions import promote

    gateway = Gateway(tmp_path, serve_app, predictors, "Knative", stable)
    monkeypatch.setenv("KUBECONFIG", str(gateway.kubeconfig))
    accepted = tmp_path / "accepted" / "report.json"
    plan: dict[str, Any] = {"steps": [25, 100], "soak_s": 0.05, "poll_s": 0.01, "split_samples": 40}
    promote(
        name="qwen3-asr",
        namespace=NAMESPACE,
        storage_uri=candidate,
        data=str(small_set),
        ingress=gateway.url,
        num_shards=1,
        concurrency=4,
        limits={**FEW_LIMITS, "wer_margin": 0.3},
        plan=plan,
        accepted_report=str(accepted),
        fail_when_refused=False,
        journals=str(tmp_path / "journals"),
    )
    assert_asked_in_turn(kfp_outputs, most_apart=4)
    (state,) = gateway.cluster.config_maps.values()
    found = json.loads(state["data"]["state.json"])
    assert found["phase"] == verdict, found["reasons"]
    promoted = verdict == "promoted"
    assert gateway.cluster.split() == {candidate if promoted else stable: 100}
    assert max(split.get(candidate, 0) for split in gateway.cluster.routed) == 100 * promoted
    assert accepted.exists() == promoted
    (page,) = kfp_outputs.glob("*/judge/page")
    assert ("<b>Accepted</b>" in page.read_text()) == promoted
    if not promoted:
        assert found["reasons"][0].startswith("error rate in ")


def assert_asked_in_turn(outputs: Path, most_apart: int) -> None:
    """Neither version has the quiet hour: at any time both were asked about as often."""
    started: list[tuple[float, int]] = []
    for version, step in (("stable", 1), ("candidate", -1)):
        (journal,) = outputs.glob(f"**/transcribe-both/{version}")
        started += [(record.started_at, step) for record in read_journal(journal)[1]]
    apart = list(accumulate(step for _, step in sorted(started)))
    assert max(map(abs, apart)) <= most_apart
    assert apart[-1] == 0


def test_a_killed_evaluation_continues_where_it_was(tmp_path: Path, serve_app: Serve) -> None:
    data = write_clips(tmp_path)
    seen: Counter[bytes] = Counter()
    reached, go_on = threading.Event(), threading.Event()

    def answer(audio: bytes) -> dict[str, Any]:
        """Answers twelve recordings, then holds until the evaluation was killed."""
        seen[audio] += 1
        if len(seen) > 12:
            reached.set()
            go_on.wait(60)
        return {"text": audio.decode(), "language": "English"}

    url = serve_app(Service(answer).app())
    command = [
        sys.executable, "-m", "pipelines", "evaluate", f"--url={url}", f"--data={data}",
        f"--out={tmp_path / 'out'}", "--concurrency=3", "--resamples=100", "--json",
    ]  # fmt: skip
    first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert reached.wait(60)
    first.kill()
    first.communicate()
    go_on.set()
    done = (tmp_path / "out" / "journal.jsonl").read_text().count("clip_id")
    assert 0 < done <= 12
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    report = json.loads(second.stdout)
    assert report["summary"]["errors"]["rate"] == 0
    assert report["summary"]["num_clips"] == 40
    assert "continuing" in second.stderr
    repeated = {audio: times for audio, times in seen.items() if times > 1}
    assert len(repeated) <= 3  # those in flight when it was killed, and no other
    assert max(seen.values()) <= 2


def test_sigterm_ends_the_server_too(tmp_path: Path) -> None:
    """As Kubernetes ends a pod: the evaluation stops, and so does the predictor it has started."""
    data = write_clips(tmp_path)
    command = [
        sys.executable, "-m", "pipelines", "evaluate", f"--checkpoint={CHECKPOINTS / 'tiny'}",
        f"--data={data}", f"--out={tmp_path / 'out'}",
    ]  # fmt: skip
    run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    child = wait_for_child(run.pid)
    run.send_signal(signal.SIGTERM)
    _, said = run.communicate(timeout=600)
    assert run.returncode == 143, said.decode()
    assert not Path(f"/proc/{child}").exists()


def wait_for_child(pid: int) -> int:
    """The process that `pid` has started, once it has."""
    for _ in range(6000):
        listed = " ".join(each.read_text() for each in Path(f"/proc/{pid}").glob("task/*/children"))
        for child in map(int, listed.split()):
            command = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            if b"predictor" in command:
                return child
        threading.Event().wait(0.01)
    raise AssertionError("no predictor was started")


def test_a_service_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"checkpoint: .* is no folder"):
        LocalService(tmp_path / "nothing")
    with pytest.raises(PipelineError, match="the predictor ended"), LocalService(tmp_path):
        pass


def test_no_environment_of_the_machine_is_needed() -> None:
    """The command line runs with nothing but a path to this package."""
    found = subprocess.run(
        [sys.executable, "-m", "pipelines", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"]},
    )
    assert found.returncode == 0
    assert "evaluate" in found.stdout
