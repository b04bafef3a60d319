"""The Kubeflow pipelines: evaluate (a service, or a checkpoint on a GPU), promote, scheduled,
transcribe.

Recordings and accepted reports lie on a volume that every step sees at DATA_PATH. Settings of the
cluster (volumes, secrets, accelerators) take effect there and are ignored by KFP's local runner.
"""

# mypy: disable-error-code="untyped-decorator,type-arg"
# No postponed annotations here: KFP reads the pipelines' as types.

from kfp import dsl

from pipelines import components
from pipelines.tasks import (
    DATA_PATH,
    JOURNALS_PATH,
    archived,
    done_as_judged,
    evaluated,
    evaluated_together,
    prepared,
    sized,
    small,
    uncached,
    with_data,
    with_key,
)

DEFAULT_STEPS = [5, 25, 50, 100]
DEPLOYED = ("stable_url", "stable_host", "candidate_url", "candidate_host")
RUN_ID = dsl.PIPELINE_JOB_ID_PLACEHOLDER


@dsl.pipeline(
    name="qwen3-asr-evaluate",
    description="Transcribe recordings with a running service, score the answers, report.",
)
def evaluate(
    url: str = "",
    name: str = "qwen3-asr",
    namespace: str = "qwen3-asr",
    data: str = DATA_PATH + "/set",
    data_pvc: str = "asr-data",
    layout: str = "",
    split: str = "",
    language: str = "",
    limit: int = 0,
    num_shards: int = 2,
    host_header: str = "",
    model: str = "qwen3-asr",
    protocol: str = "v2",
    send_language: bool = False,
    allow_remote: bool = False,
    concurrency: int = 8,
    cluster_by: str = "auto",
    price_per_hour: float = 0.0,
    title: str = "evaluation",
    max_failed: float = 0.05,
    journals: str = JOURNALS_PATH,
    reuse: bool = True,
    cpu: str = "1",
    memory: str = "2Gi",
) -> None:
    manifest = prepared(data, data_pvc, layout, split, language, limit)
    where = {"url": url, "host_header": host_header, "name": name, "namespace": namespace,
             "num_shards": num_shards, "journals": journals, "run_id": RUN_ID,
             "reuse": reuse}  # fmt: skip
    asked = {"model": model, "protocol": protocol, "send_language": send_language,
             "allow_remote": allow_remote, "concurrency": concurrency, "max_failed": max_failed,
             "cpu": cpu, "memory": memory}  # fmt: skip
    scoring = {"title": title, "cluster_by": cluster_by, "price_per_hour": price_per_hour}
    evaluated(manifest, data_pvc, where, asked, scoring, cached=True)


@dsl.pipeline(
    name="qwen3-asr-evaluate-in-process",
    description="Evaluate a checkpoint on a GPU node of the pipeline's own, without a service.",
)
def evaluate_in_process(
    checkpoint: str,
    checkpoint_pvc: str = "asr-models",
    data: str = DATA_PATH + "/set",
    data_pvc: str = "asr-data",
    layout: str = "",
    split: str = "",
    language: str = "",
    limit: int = 0,
    num_shards: int = 1,
    send_language: bool = False,
    allow_remote: bool = False,
    concurrency: int = 64,
    cluster_by: str = "auto",
    price_per_hour: float = 0.0,
    title: str = "evaluation",
    max_failed: float = 0.05,
    journals: str = JOURNALS_PATH,
    cpu: str = "4",
    memory: str = "16Gi",
) -> None:
    manifest = prepared(data, data_pvc, layout, split, language, limit)
    where = {"checkpoint": checkpoint, "num_shards": num_shards, "journals": journals,
             "run_id": RUN_ID, "reuse": False}  # fmt: skip
    asked = {"model": "qwen3-asr", "protocol": "v2", "send_language": send_language,
             "allow_remote": allow_remote, "concurrency": concurrency, "max_failed": max_failed,
             "cpu": cpu, "memory": memory}  # fmt: skip
    scoring = {"title": title, "cluster_by": cluster_by, "price_per_hour": price_per_hour}
    evaluated(manifest, data_pvc, where, asked, scoring, checkpoint_pvc=checkpoint_pvc)


@dsl.pipeline(
    name="qwen3-asr-promote",
    description="Deploy a candidate dark, evaluate it beside the stable version, promote or undo.",
)
def promote(
    name: str,
    namespace: str,
    storage_uri: str,
    data: str = DATA_PATH + "/set",
    data_pvc: str = "asr-data",
    layout: str = "",
    split: str = "",
    language: str = "",
    limit: int = 0,
    num_shards: int = 2,
    ingress: str = "",
    model: str = "qwen3-asr",
    protocol: str = "v2",
    send_language: bool = False,
    allow_remote: bool = False,
    drafts: bool = False,
    concurrency: int = 8,
    cluster_by: str = "auto",
    limits: dict = {},  # noqa: B006 - KFP wants the literal
    plan: dict = {"steps": DEFAULT_STEPS},  # noqa: B006
    watch: dict = {},  # noqa: B006
    prometheus: str = "",
    accepted_report: str = "",
    webhook: str = "",
    fail_when_refused: bool = True,
    max_failed: float = 0.5,  # what is less, the gate judges
    journals: str = JOURNALS_PATH,
    cpu: str = "1",
    memory: str = "2Gi",
) -> None:
    run = {"name": name, "namespace": namespace, "webhook": webhook, "plan": plan,
           "run_id": RUN_ID}  # fmt: skip
    reached = {"ingress": ingress, "prometheus": prometheus, "model": model}
    last = small(uncached(components.settle(**run)))
    with dsl.ExitHandler(exit_task=last, name="never-half-way"):
        manifest = prepared(data, data_pvc, layout, split, language, limit)
        deployed = components.deploy(
            storage_uri=storage_uri, accepted_report=accepted_report, **reached, **run
        )
        with_key(with_data(small(uncached(deployed)), data_pvc))
        asked = {"model": model, "protocol": protocol, "send_language": send_language,
                 "drafts": drafts, "allow_remote": allow_remote, "concurrency": concurrency,
                 "max_failed": max_failed, "cpu": cpu, "memory": memory}  # fmt: skip
        where = {key: deployed.outputs[key] for key in DEPLOYED}
        where |= {"num_shards": num_shards, "journals": journals, "run_id": RUN_ID}
        reports = evaluated_together(manifest, data_pvc, where, asked, cluster_by)
        judged = components.judge(
            limits=limits,
            stable=reports["stable"].outputs["report"],
            candidate=reports["candidate"].outputs["report"],
        )
        sized(uncached(judged), cpu, memory)
        shifting = {"watch": watch, "accepted_report": accepted_report, **reached,
                    "report": reports["candidate"].outputs["report"]}  # fmt: skip
        done_as_judged(judged, run, shifting, data_pvc, fail_when_refused)


@dsl.pipeline(
    name="qwen3-asr-scheduled",
    description="Transcribe a sample from production and look for drift since the accepted report.",
)
def scheduled(
    url: str = "",
    name: str = "qwen3-asr",
    namespace: str = "qwen3-asr",
    baseline: str = DATA_PATH + "/accepted/report.json",
    data: str = DATA_PATH + "/sample",
    data_pvc: str = "asr-data",
    layout: str = "",
    limit: int = 0,
    num_shards: int = 2,
    host_header: str = "",
    model: str = "qwen3-asr",
    protocol: str = "v2",
    send_language: bool = False,
    allow_remote: bool = False,
    concurrency: int = 4,
    cluster_by: str = "auto",
    limits: dict = {},  # noqa: B006
    title: str = "production sample",
    webhook: str = "",
    fail_on_drift: bool = True,
    max_failed: float = 0.05,
    journals: str = JOURNALS_PATH,
    cpu: str = "1",
    memory: str = "2Gi",
) -> None:
    manifest = prepared(data, data_pvc, layout, "", "", limit)
    where = {"url": url, "host_header": host_header, "name": name, "namespace": namespace,
             "num_shards": num_shards, "journals": journals, "run_id": RUN_ID,
             "reuse": False}  # fmt: skip
    asked = {"model": model, "protocol": protocol, "send_language": send_language,
             "allow_remote": allow_remote, "concurrency": concurrency, "max_failed": max_failed,
             "cpu": cpu, "memory": memory}  # fmt: skip
    scoring = {"title": title, "cluster_by": cluster_by, "price_per_hour": 0.0}
    scored = evaluated(manifest, data_pvc, where, asked, scoring)
    found = components.drift(baseline=baseline, limits=limits, report=scored.outputs["report"])
    with_data(sized(uncached(found), cpu, memory), data_pvc)
    with dsl.If(found.outputs["Output"] == 1, name="drifted"):
        told = components.alarm(
            title=title, webhook=webhook, fail=fail_on_drift, summary=found.outputs["summary"]
        )
        small(uncached(told))


@dsl.pipeline(
    name="qwen3-asr-transcribe",
    description="Transcribe an archive to JSONL, text and subtitles; what is answered stays so.",
)
def transcribe(
    source: str = DATA_PATH + "/recordings",
    out: str = DATA_PATH + "/transcripts",
    data_pvc: str = "asr-data",
    url: str = "",
    name: str = "qwen3-asr",
    namespace: str = "qwen3-asr",
    host_header: str = "",
    formats: str = "jsonl,txt,srt",
    language: str = "",
    model: str = "qwen3-asr",
    protocol: str = "v2",
    send_language: bool = False,
    allow_remote: bool = False,
    concurrency: int = 64,
    max_failed: float = 0.05,
    cpu: str = "1",
    memory: str = "2Gi",
) -> None:
    where = {"url": url, "host_header": host_header, "name": name, "namespace": namespace}
    asked = {"formats": formats, "language": language, "model": model, "protocol": protocol,
             "send_language": send_language, "allow_remote": allow_remote,
             "concurrency": concurrency, "max_failed": max_failed, "cpu": cpu,
             "memory": memory}  # fmt: skip
    archived(source, out, data_pvc, where, asked)


PIPELINES = {
    "evaluate": evaluate,
    "evaluate-in-process": evaluate_in_process,
    "promote": promote,
    "scheduled": scheduled,
    "transcribe": transcribe,
}
