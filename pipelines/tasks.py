"""Steps put together the same way in several pipelines, with what the cluster gives each.

Volumes, secrets and accelerators take effect on a cluster; KFP's local runner ignores them.
"""

from typing import Any

from kfp import dsl, kubernetes

from pipelines import components
from pipelines.lib.defaults import API_KEY_ENV

# What the small steps ask for: a Kubernetes client or a file, nothing that computes.
SMALL_CPU, SMALL_MEMORY = "100m", "512Mi"
MAX_SECONDS_OF_BACKOFF = "60s"

DATA_PATH = "/data"
JOURNALS_PATH = DATA_PATH + "/journals"
PARALLEL = 2  # shards at once
MODELS_PATH = "/models"
API_KEY_SECRET, API_KEY_SECRET_KEY = "qwen3-asr-api-key", "api-key"
BUCKETS = "qwen3-asr-buckets"  # a secret
# Under the names by which s3fs looks for them in the environment.
BUCKETS_KEYS = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL",
    "AWS_DEFAULT_REGION",
)  # fmt: skip
GPU = "nvidia.com/gpu"


def prepared(data: Any, data_pvc: Any, layout: Any, split: Any, language: Any, limit: Any) -> Any:
    """The manifest; not cached, because the folder's content may have changed."""
    task = components.prepare(data=data, layout=layout, split=split, language=language, limit=limit)
    return with_data(small(uncached(task)), data_pvc).output


def evaluated(
    manifest: Any, data_pvc: Any, where: dict[str, Any], asked: dict[str, Any],
    scoring: dict[str, Any], *, checkpoint_pvc: Any = None, cached: bool = False,
) -> Any:  # fmt: skip
    """All shards transcribed by one service, or by a checkpoint, and scored together.

    `where` are the inputs of `shards`; `cached` leaves it to KFP whether a shard's answers of an
    earlier run are taken (see `plan_shards` for what they depend on).
    """
    unset = dict.fromkeys(("url", "host_header", "checkpoint", "name", "namespace"), "")
    parts = components.shards(manifest=manifest, model=asked["model"], **{**unset, **where})
    with_buckets(with_key(with_data(small(uncached(parts)), data_pvc)))
    with dsl.ParallelFor(parts.output, parallelism=PARALLEL) as shard:
        task = components.transcribe(shard=shard, manifest=manifest, **asked)
        _asking_task(task, data_pvc, asked, cached=cached)
        if checkpoint_pvc is not None:
            task.set_container_image(components.IMAGE + components.GPU_SUFFIX)
            task.set_accelerator_type(GPU).set_accelerator_limit(1)
            kubernetes.add_toleration(task, key=GPU, operator="Exists", effect="NoSchedule")
            kubernetes.mount_pvc(task, pvc_name=checkpoint_pvc, mount_path=MODELS_PATH)
    return _scored(manifest, data_pvc, task.outputs["journal"], asked, scoring)


def evaluated_together(
    manifest: Any, data_pvc: Any, where: dict[str, Any], asked: dict[str, Any], cluster_by: Any
) -> dict[str, Any]:
    """Both versions asked in turn, each recording of both at about the same time; two reports."""
    parts = components.shards_of_both(manifest=manifest, model=asked["model"], **where)
    with_buckets(with_data(small(uncached(parts)), data_pvc))
    with dsl.ParallelFor(parts.output, parallelism=PARALLEL) as shard:
        task = components.transcribe_both(shard=shard, manifest=manifest, **asked)
        _asking_task(task, data_pvc, asked, cached=False)
    return {
        version: _scored(
            manifest, data_pvc, task.outputs[version], asked,
            {"title": version, "cluster_by": cluster_by, "price_per_hour": 0.0},
        )
        for version in ("stable", "candidate")
    }  # fmt: skip


def done_as_judged(
    judged: Any, run: dict[str, Any], shifting: dict[str, Any], data_pvc: Any, fail: Any
) -> None:
    """Traffic for a candidate that was accepted, the way back for one that was not."""
    decision = judged.outputs["decision"]
    with dsl.If(judged.outputs["Output"] == 1, name="accepted"):
        shifted = components.shift(decision=decision, **shifting, **run)
        with_key(with_data(small(uncached(shifted)), data_pvc))
    with dsl.Else(name="refused"):
        small(uncached(components.refuse(fail=fail, decision=decision, **run)))


def archived(
    source: Any, out: Any, data_pvc: Any, where: dict[str, Any], asked: dict[str, Any]
) -> None:
    """An archive to files; nothing is cached, since its journal knows what was answered."""
    step = {key: value for key, value in asked.items() if key not in ("cpu", "memory")}
    task = components.transcribe_archive(source=source, out=out, **where, **step)
    _asking_task(task, data_pvc, asked, cached=False)


def _asking_task(task: Any, data_pvc: Any, asked: dict[str, Any], *, cached: bool) -> None:
    sized(task if cached else uncached(task), asked["cpu"], asked["memory"])
    # For pods that are lost: KFP does not try a step again that has failed. What a service
    # answers badly is tried again inside the step.
    task.set_retry(num_retries=2, backoff_max_duration=MAX_SECONDS_OF_BACKOFF)
    with_data(task, data_pvc)
    with_buckets(with_key(task))


def _scored(
    manifest: Any, data_pvc: Any, journal: Any, asked: dict[str, Any], scoring: dict[str, Any]
) -> Any:
    task = components.score(manifest=manifest, journals=dsl.Collected(journal), **scoring)
    return with_data(sized(uncached(task), asked["cpu"], asked["memory"]), data_pvc)


def with_data(task: Any, data_pvc: Any) -> Any:
    """The step sees the recordings."""
    return kubernetes.mount_pvc(task, pvc_name=data_pvc, mount_path=DATA_PATH)


def with_key(task: Any) -> Any:
    """The step may call a service that asks for an API key."""
    keys = {API_KEY_SECRET_KEY: API_KEY_ENV}
    return kubernetes.use_secret_as_env(task, API_KEY_SECRET, keys, optional=True)


def with_buckets(task: Any) -> Any:
    """The step may read recordings, and keep journals, in an object store."""
    keys = {name: name for name in BUCKETS_KEYS}
    return kubernetes.use_secret_as_env(task, BUCKETS, keys, optional=True)


def sized(task: Any, cpu: Any, memory: Any) -> Any:
    """The step asks for what it may use: no node is filled with more than it holds."""
    task.set_cpu_request(cpu).set_cpu_limit(cpu)
    return task.set_memory_request(memory).set_memory_limit(memory)


def small(task: Any) -> Any:
    """A step that computes nothing."""
    return sized(task, SMALL_CPU, SMALL_MEMORY)


def uncached(task: Any) -> Any:
    """A step whose result depends on more than its parameters: a service, a cluster, a file.

    KFP's cache compares parameters and the names of artifacts, not what is in them.
    """
    return task.set_caching_options(enable_caching=False)
