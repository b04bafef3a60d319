"""Shards of a pipeline's recordings: how many, what their answers depend on, and lost pods."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.responses import JSONResponse

from pipelines.lib.errors import OptionError, PipelineError
from pipelines.lib.journal import read_journal
from pipelines.shard_steps import MAX_SHARDS, Asking, plan_shards, transcribe_or_fail, until_enough
from tests.pipelines.conftest import Serve
from tests.pipelines.service import Service
from tests.pipelines.test_kfp import COMPILED
from tests.pipelines.test_promote import NUM_CLIPS, answers, write_clips


def planned(manifest: Path, url: str, num_shards: int = 1, **more: Any) -> list[dict[str, Any]]:
    given = {"checkpoint": "", "model": "qwen3-asr", "journals": "", "run_id": "run-1",
             "reuse": True, "services": [(url, "")], **more}  # fmt: skip
    return plan_shards(str(manifest), num_shards, **given)


def test_the_workflow_object_does_not_grow_with_the_shards(tmp_path: Path) -> None:
    """Argo keeps every node of every loop's turn in one object, of which etcd takes 1.5 MB; a
    `promote` of four turns made 630 kB on a real one. 64 turns would not fit, so there are four."""
    manifest = tmp_path / "manifest.jsonl"
    lines = [json.dumps({"audio": f"{i}.wav", "text": "one"}) for i in range(200)]
    manifest.write_text("\n".join(lines))
    turns = len(planned(manifest, "", 64, reuse=False))
    measured, measured_turns, most = 630_000, 4, 1_500_000
    assert turns == MAX_SHARDS == measured_turns
    for path in COMPILED.glob("*.yaml"):
        spec, platform = yaml.safe_load_all(path.read_text())
        loops = [name for name in spec["components"] if name.startswith("comp-for-loop")]
        # Both versions are asked in one, and an archive in one step.
        assert len(loops) == (path.stem != "transcribe"), path.name
        if path.stem == "promote":
            turn = least_bytes_of_a_turn(spec, platform, loops[0])
            assert measured + 60 * turn > most
            assert 2 * turn * measured_turns < measured  # the estimate is no more than was seen


def least_bytes_of_a_turn(spec: Any, platform: Any, loop: str) -> int:
    """What a loop's turn adds, by KFP's compiler for Argo (2.17): two drivers get what is compiled
    for the loop and for its step; the step's driver gives a patch of the pod that holds command and
    component, and its three nodes (a DAG, the retries, the pod) are given that again."""
    (name,) = spec["components"][loop]["dag"]["tasks"]

    def size(*parts: Any) -> int:
        return sum(len(json.dumps(part, separators=(",", ":"))) for part in parts)

    whole, component = spec["components"][loop], spec["components"][f"comp-{name}"]
    container = spec["deploymentSpec"]["executors"][f"exec-{name}"]["container"]
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    task = whole["dag"]["tasks"][name]
    drivers = size(whole, component, task, container, executors[f"exec-{name}"])
    return drivers + 4 * size(component, container)


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


def test_a_mistake_is_not_tried_again() -> None:
    paused: list[float] = []

    def ask() -> str:
        raise OptionError("concurrency: 0 is not within 1..1024")

    with pytest.raises(OptionError):
        until_enough(ask, paused.append)
    assert paused == []


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
