"""The steps of the Kubeflow pipelines: each imports this package inside its image and calls it.

A component's body is shipped as source, so it holds its own imports and nothing but a call.
"""
# mypy: disable-error-code="untyped-decorator,no-untyped-def,type-arg"

from typing import List, NamedTuple  # noqa: UP035 - KFP reads these annotations

from kfp import dsl
from kfp.dsl import HTML, ClassificationMetrics, Dataset, Input, Markdown, Metrics, Output

IMAGE = "registry.example.com/qwen3-asr/pipelines:0.1.0"
"""Image of the steps as `make image` names it; `--image` puts your own in its place."""

GPU_SUFFIX = "-gpu"
"""Ends the tag of the image that holds the predictor too, for steps that load a checkpoint."""


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def prepare(
    data: str, layout: str, split: str, language: str, limit: int, manifest: Output[Dataset]
):
    """Read a data set into a manifest with absolute paths."""
    from pipelines.evaluation_steps import prepare

    prepare(data, manifest.path, layout=layout, split=split, language=language, limit=limit)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def shards(
    num_shards: int,
    url: str,
    host_header: str,
    checkpoint: str,
    name: str,
    namespace: str,
    model: str,
    journals: str,
    run_id: str,
    reuse: bool,
    manifest: Input[Dataset],
) -> List[dict]:  # noqa: UP006
    """The parts that the recordings are transcribed in, each with all it must know."""
    from pipelines.rollout_steps import service_url
    from pipelines.shard_steps import plan_shards

    if not checkpoint:
        url = service_url(url, host_header, name, namespace)
    return plan_shards(
        manifest.path, num_shards, services=[(url, host_header)], checkpoint=checkpoint,
        model=model, journals=journals, run_id=run_id, reuse=reuse,
    )  # fmt: skip


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def shards_of_both(
    num_shards: int,
    stable_url: str,
    stable_host: str,
    candidate_url: str,
    candidate_host: str,
    model: str,
    journals: str,
    run_id: str,
    manifest: Input[Dataset],
) -> List[dict]:  # noqa: UP006
    """As `shards`, for two versions. A decision is made from answers of its own run only."""
    from pipelines.shard_steps import plan_shards

    return plan_shards(
        manifest.path, num_shards, checkpoint="", model=model, journals=journals, run_id=run_id,
        services=[(stable_url, stable_host), (candidate_url, candidate_host)], reuse=False,
    )  # fmt: skip


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def transcribe(
    shard: dict,
    model: str,
    protocol: str,
    send_language: bool,
    allow_remote: bool,
    concurrency: int,
    max_failed: float,
    cpu: str,
    memory: str,
    manifest: Input[Dataset],
    journal: Output[Dataset],
):
    """Transcribe one shard with a service, or with a checkpoint in this very step.

    Fails when more than `max_failed` (a share) of its recordings were not answered. `cpu` and
    `memory` are what the step may use: KFP brings a parameter into a loop only as an input.
    """
    from pipelines.shard_steps import Asking, transcribe_or_fail

    asking = Asking(model, protocol, concurrency, max_failed, send_language,
                    allow_remote=allow_remote)  # fmt: skip
    transcribe_or_fail(manifest.path, [journal.path], shard, asking)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def transcribe_both(
    shard: dict,
    model: str,
    protocol: str,
    send_language: bool,
    drafts: bool,
    allow_remote: bool,
    concurrency: int,
    max_failed: float,
    cpu: str,
    memory: str,
    manifest: Input[Dataset],
    stable: Output[Dataset],
    candidate: Output[Dataset],
):
    """Transcribe one shard with both versions, asked in turn: neither has the quiet hour.

    With `drafts` the candidate is handed the stable version's transcripts, if it takes them.
    """
    from pipelines.shard_steps import Asking, transcribe_or_fail

    asking = Asking(model, protocol, concurrency, max_failed, send_language, drafts, allow_remote)
    transcribe_or_fail(manifest.path, [stable.path, candidate.path], shard, asking)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def transcribe_archive(
    source: str,
    out: str,
    url: str,
    host_header: str,
    name: str,
    namespace: str,
    formats: str,
    language: str,
    model: str,
    protocol: str,
    send_language: bool,
    allow_remote: bool,
    concurrency: int,
    max_failed: float,
    metrics: Output[Metrics],
    transcripts: Output[Dataset],
):
    """Transcribe what of a folder, bucket or manifest has no answer in `out` yet, a folder.

    One step, however large the archive is: `concurrency` requests are under way at once.
    """
    from pipelines.archive_steps import transcribe_or_fail
    from pipelines.rollout_steps import service_url
    from pipelines.shard_steps import Asking

    asking = Asking(model, protocol, concurrency, max_failed, send_language,
                    allow_remote=allow_remote)  # fmt: skip
    numbers = transcribe_or_fail(
        source, out, transcripts.path, asking, host_header=host_header, formats=formats,
        url=service_url(url, host_header, name, namespace), language=language,
    )  # fmt: skip
    for name, value in numbers.items():
        metrics.log_metric(name, value)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def score(
    title: str,
    cluster_by: str,
    price_per_hour: float,
    manifest: Input[Dataset],
    journals: Input[List[Dataset]],  # noqa: UP006
    report: Output[Dataset],
    metrics: Output[Metrics],
    classes: Output[ClassificationMetrics],
    page: Output[HTML],
    summary: Output[Markdown],
):
    """Score all shards and write the report."""
    from pipelines.evaluation_steps import score

    numbers, (languages, matrix) = score(
        manifest.path, [journal.path for journal in journals], report.path, page.path,
        summary.path, title=title, cluster_by=cluster_by, price_per_hour=price_per_hour,
    )  # fmt: skip
    for name, value in numbers.items():
        metrics.log_metric(name, value)
    classes.log_confusion_matrix(languages, matrix)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def deploy(
    name: str,
    namespace: str,
    storage_uri: str,
    ingress: str,
    prometheus: str,
    webhook: str,
    model: str,
    accepted_report: str,
    plan: dict,
    run_id: str,
) -> NamedTuple(  # type: ignore[valid-type]
    "Deployed", stable_url=str, stable_host=str, candidate_url=str, candidate_host=str
):
    """Bring the candidate up without traffic; how both versions are reached.

    Everything that the run will need later is tried first: the gateway, Prometheus, the webhook's
    form, and the place of the accepted report.
    """
    from pipelines.rollout_steps import Run, deploy

    run = Run(name, namespace, plan, run_id, prometheus=prometheus, webhook=webhook,
              ingress=ingress, model=model)  # fmt: skip
    return deploy(run, storage_uri, accepted_report)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def judge(
    limits: dict,
    stable: Input[Dataset],
    candidate: Input[Dataset],
    metrics: Output[Metrics],
    page: Output[HTML],
    summary: Output[Markdown],
    decision: Output[Dataset],
) -> int:
    """Compare both reports and decide: 1 = accepted, 0 = refused."""
    from pipelines.evaluation_steps import judge

    numbers, accepted = judge(
        stable.path, candidate.path, limits, decision.path, page.path, summary.path
    )
    for name, value in numbers.items():
        metrics.log_metric(name, value)
    return int(accepted)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def shift(
    name: str,
    namespace: str,
    ingress: str,
    prometheus: str,
    webhook: str,
    model: str,
    plan: dict,
    watch: dict,
    run_id: str,
    accepted_report: str,
    report: Input[Dataset],
    decision: Input[Dataset],
) -> str:
    """Step traffic up, promote, keep the report as the accepted one; fails when rolled back."""
    from pipelines.rollout_steps import Run, shift

    run = Run(name, namespace, plan, run_id, prometheus=prometheus, webhook=webhook,
              ingress=ingress, model=model, watch=watch)  # fmt: skip
    return shift(run, decision.path, report=report.path, accepted_report=accepted_report)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def refuse(
    name: str,
    namespace: str,
    webhook: str,
    plan: dict,
    run_id: str,
    fail: bool,
    decision: Input[Dataset],
):
    """Undo the rollout because the gate did not accept the candidate; fails to tell so."""
    from pipelines.rollout_steps import Run, refuse

    refuse(Run(name, namespace, plan, run_id, webhook=webhook), decision.path, fail=fail)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def settle(name: str, namespace: str, webhook: str, plan: dict, run_id: str):
    """Whatever happened before: nothing is left half-way."""
    from pipelines.rollout_steps import Run, settle

    settle(Run(name, namespace, plan, run_id, webhook=webhook))


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def alarm(title: str, webhook: str, fail: bool, summary: Input[Markdown]):
    """Tell the webhook, and fail: a step of its own, since a failed step keeps no artifacts."""
    from pipelines.evaluation_steps import alarm

    alarm(summary.path, title=title, webhook_url=webhook, fail=fail)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def drift(
    baseline: str,
    limits: dict,
    report: Input[Dataset],
    metrics: Output[Metrics],
    summary: Output[Markdown],
) -> int:
    """Compare with the last accepted report: 1 = drifted, 0 = not."""
    from pipelines.evaluation_steps import drift

    numbers, drifted = drift(baseline, report.path, limits, summary.path)
    for name, value in numbers.items():
        metrics.log_metric(name, value)
    return int(drifted)
