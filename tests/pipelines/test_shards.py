"""Shards of a pipeline's recordings: how many, what their answers depend on, and lost pods."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.responses import JSONResponse

from pipelines.lib.errors import PipelineError
from pipelines.lib.journal import read_journal
from pipelines.shard_steps import MAX_SHARDS, Asking, plan_shards, transcribe_or_fail
from tests.pipelines.conftest import Serve
from tests.pipelines.service import Service
from tests.pipelines.test_kfp import COMPILED
from tests.pipelines.test_promote import NUM_CLIPS, answers, write_clips


def planned(manifest: Path, url: str, num_shards: int = 1, **more: Any) -> list[dict[str, Any]]:
    given = {"checkpoint": "", "model": "qwen3-asr", "journals": "", "run_id": "run-1",
             "reuse": True, "services": [(url, "")], **more}  # fmt: skip
    return plan_shards(str(manifest), num_shards, **given)


def test_the_workflow_object_does_not_grow_with_the_shards(tmp_path: Path) -> None:
    """Argo keeps every node of every loop turn in one object; two times two shards were 630 kB of
    the 1.5 MB that etcd takes. Each turn repeats what its step is compiled to in its four nodes.
    """
    manifest = tmp_path / "manifest.jsonl"
    lines = [json.dumps({"audio": f"{i}.wav", "text": "one"}) for i in range(200)]
    manifest.write_text("\n".join(lines))
    turns = len(planned(manifest, "", 64, reuse=False))
    assert turns == len(planned(manifest, "", MAX_SHARDS, reuse=False)) == MAX_SHARDS
    measured, measured_turns = 630_000, 4
    for name, step in (
        ("evaluate", "transcribe"),
        ("evaluate-in-process", "transcribe"),
        ("scheduled", "transcribe"),
        ("promote", "transcribe-both"),
    ):
        spec = next(yaml.safe_load_all((COMPILED / f"{name}.yaml").read_text()))
        repeated = {
            "component": spec["components"][f"comp-{step}"],
            "executor": spec["deploymentSpec"]["executors"][f"exec-{step}"],
        }
        turn = 4 * len(json.dumps(repeated))
        assert measured + max(0, turns - measured_turns) * turn < 1_000_000, name
        text = (COMPILED / f"{name}.yaml").read_text()
        assert text.count("iteratorConcurrencyLimit") <= 1 or name == "promote"
        loops = [c for c in spec["components"] if c.startswith("comp-for-loop")]
        assert len(loops) == 1, name  # both versions are asked in one


ASKING = Asking("qwen3-asr", "v2", 4, 0.05)


def test_a_shard_that_is_not_answered_fails_and_says_what_to_do(
    tmp_path: Path, serve_app: Serve
) -> None:
    manifest = write_clips(tmp_path)
    service = Service(answers(0), failures=[JSONResponse({"error": "no"}, 400)] * 3 * NUM_CLIPS)
    [shard] = planned(manifest, serve_app(service.app()))
    paused: list[float] = []
    journal = [str(tmp_path / "journal.jsonl")]
    message = r"40 of 40 recordings were not answered \(.*\); .* At most 5% may fail"
    with pytest.raises(PipelineError, match=message):
        transcribe_or_fail(str(manifest), journal, shard, ASKING, sleep=paused.append)
    assert len(paused) == 2  # what may pass by itself was waited for
    service.failures.clear()
    transcribe_or_fail(str(manifest), journal, shard, ASKING, sleep=paused.append)
    assert len(paused) == 2


def test_a_pod_that_is_lost_is_continued_by_the_next(tmp_path: Path, serve_app: Serve) -> None:
    """The first pod is gone with ten recordings missing; the next has a disk of its own."""
    manifest = write_clips(tmp_path)
    service = Service(answers(0), checkpoint="one")
    service.failures = [JSONResponse({"error": "no"}, 400) for _ in range(10)]
    url = serve_app(service.app())

    def pod(name: str, shard: dict[str, Any]) -> int:
        """How many recordings it asks for."""
        before = len(service.asked)
        output = tmp_path / f"{name}.jsonl"
        transcribe_or_fail(str(manifest), [str(output)], shard, ASKING, sleep=lost)
        assert len(read_journal(output)[1]) == NUM_CLIPS
        return len(service.asked) - before

    def lost(_: float) -> None:
        raise ConnectionResetError

    kept = str(tmp_path / "volume")
    [shard] = planned(manifest, url, journals=kept)
    with pytest.raises(ConnectionResetError):
        pod("first", shard)
    assert len(service.asked) == NUM_CLIPS
    assert pod("second", shard) == 10
    [same] = planned(manifest, url, journals=kept, run_id="run-2")
    assert pod("of another run with the same model", same) == 0
    [fresh] = planned(manifest, url, journals=kept, run_id="run-2", reuse=False)
    assert pod("of a run that wants its own answers", fresh) == NUM_CLIPS


def test_what_answers_depend_on_is_in_the_key(tmp_path: Path, serve_app: Serve) -> None:
    """KFP's cache compares a step's inputs: model and recordings must be among them."""
    manifest = write_clips(tmp_path)
    service = Service(answers(0), checkpoint="one")
    url = serve_app(service.app())

    def key(**more: Any) -> str:
        return str(planned(manifest, url, **more)[0]["key"])

    first = key()
    assert key(run_id="run-2") == first
    assert key(run_id="run-2", reuse=False) != key(run_id="run-1", reuse=False) != first
    (tmp_path / "3.wav").write_text("another recording")
    replaced = key()
    service.checkpoint = "two"
    other = key()
    service.checkpoint = None  # it does not say what it is: never taken for another
    unknown = key()
    assert len({first, replaced, other, unknown, key(run_id="run-2")}) == 5
    assert planned(manifest, url, journals="/proc/nowhere")[0]["journals"] == ""
