"""The Kubeflow pipelines: evaluate (a service, or a checkpoint on a GPU), promote, scheduled.

Recordings and accepted reports lie on a volume that every step sees at DATA_PATH. Settings of the
cluster (volumes, secrets, accelerators) take effect there and are ignored by KFP's local runner.
"""

# mypy: disable-error-code="untyped-decorator,type-arg"
# No postponed annotations here: KFP reads the pipelines' as types.

from kfp import dsl

from pipelines import components
from pipelines.tasks import DATA_PATH, evaluated, prepared, uncached, with_data

DEFAULT_STEPS = [5, 25, 50, 100]


@dsl.pipeline(
    name="qwen3-asr-evaluate",
    description="Transcribe recordings with a running service, score the answers, report.",
)
def evaluate(
    url: str,
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
    concurrency: int = 8,
    cluster_by: str = "clip",
    price_per_hour: float = 0.0,
    title: str = "evaluation",
) -> None:
    manifest = prepared(data, data_pvc, layout, split, language, limit)
    evaluated(
        manifest, data_pvc, num_shards, title, cluster_by, price_per_hour,
        url=url, host_header=host_header, model=model, protocol=protocol, concurrency=concurrency,
    )  # fmt: skip


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
    concurrency: int = 64,
    cluster_by: str = "clip",
    price_per_hour: float = 0.0,
    title: str = "evaluation",
) -> None:
    manifest = prepared(data, data_pvc, layout, split, language, limit)
    evaluated(
        manifest, data_pvc, num_shards, title, cluster_by, price_per_hour,
        checkpoint=checkpoint, checkpoint_pvc=checkpoint_pvc, concurrency=concurrency,
    )  # fmt: skip


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
    concurrency: int = 8,
    cluster_by: str = "clip",
    limits: dict = {},  # noqa: B006 - KFP wants the literal
    plan: dict = {"steps": DEFAULT_STEPS},  # noqa: B006
    watch: dict = {},  # noqa: B006
    prometheus: str = "",
    accepted_report: str = "",
) -> None:
    owner = dsl.PIPELINE_JOB_ID_PLACEHOLDER
    last = components.settle(name=name, namespace=namespace, plan=plan, run_id=owner)
    with dsl.ExitHandler(exit_task=uncached(last), name="never-half-way"):
        manifest = prepared(data, data_pvc, layout, split, language, limit)
        deployed = uncached(
            components.deploy(
                name=name,
                namespace=namespace,
                storage_uri=storage_uri,
                ingress=ingress,
                plan=plan,
                run_id=owner,
            )
        )
        asked = {"model": model, "protocol": protocol, "concurrency": concurrency}
        reports = {
            version: evaluated(
                manifest, data_pvc, num_shards, version, cluster_by, 0.0,
                url=deployed.outputs[f"{version}_url"],
                host_header=deployed.outputs[f"{version}_host"], **asked,
            )
            for version in ("stable", "candidate")
        }  # fmt: skip
        judged = components.judge(
            limits=limits,
            stable=reports["stable"].outputs["report"],
            candidate=reports["candidate"].outputs["report"],
        )
        decision = judged.outputs["decision"]
        with dsl.If(judged.outputs["Output"] == 1, name="accepted"):
            shifted = components.shift(
                name=name, namespace=namespace, prometheus=prometheus, plan=plan, watch=watch,
                run_id=owner, accepted_report=accepted_report,
                report=reports["candidate"].outputs["report"], decision=decision,
            )  # fmt: skip
            with_data(uncached(shifted), data_pvc)
        with dsl.Else(name="refused"):
            uncached(
                components.refuse(
                    name=name, namespace=namespace, plan=plan, run_id=owner, decision=decision
                )
            )


@dsl.pipeline(
    name="qwen3-asr-scheduled",
    description="Transcribe a sample from production and look for drift since the accepted report.",
)
def scheduled(
    url: str,
    baseline: str = DATA_PATH + "/accepted/report.json",
    data: str = DATA_PATH + "/sample",
    data_pvc: str = "asr-data",
    layout: str = "",
    limit: int = 0,
    num_shards: int = 2,
    host_header: str = "",
    model: str = "qwen3-asr",
    protocol: str = "v2",
    concurrency: int = 4,
    cluster_by: str = "clip",
    limits: dict = {},  # noqa: B006
    title: str = "production sample",
) -> None:
    manifest = prepared(data, data_pvc, layout, "", "", limit)
    scored = evaluated(
        manifest, data_pvc, num_shards, title, cluster_by, 0.0,
        url=url, host_header=host_header, model=model, protocol=protocol, concurrency=concurrency,
    )  # fmt: skip
    found = components.drift(baseline=baseline, limits=limits, report=scored.outputs["report"])
    with_data(uncached(found), data_pvc)


PIPELINES = {
    "evaluate": evaluate,
    "evaluate-in-process": evaluate_in_process,
    "promote": promote,
    "scheduled": scheduled,
}
