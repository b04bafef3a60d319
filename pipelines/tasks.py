"""Steps put together the same way in several pipelines, with what the cluster gives each.

Volumes, secrets and accelerators take effect on a cluster; KFP's local runner ignores them.
"""

from typing import Any

from kfp import dsl, kubernetes

from pipelines import components
from pipelines.lib.client import API_KEY_ENV

# What the small steps ask for: a Kubernetes client or a file, nothing that computes.
SMALL_CPU, SMALL_MEMORY = "100m", "512Mi"
MAX_SECONDS_OF_BACKOFF = "60s"

DATA_PATH = "/data"
MODELS_PATH = "/models"
API_KEY_SECRET, API_KEY_SECRET_KEY = "qwen3-asr-api-key", "api-key"
GPU = "nvidia.com/gpu"


def prepared(data: Any, data_pvc: Any, layout: Any, split: Any, language: Any, limit: Any) -> Any:
    """The manifest; not cached, because the folder's content may have changed."""
    task = components.prepare(data=data, layout=layout, split=split, language=language, limit=limit)
    return with_data(small(uncached(task)), data_pvc).output


def evaluated(
    manifest: Any,
    data_pvc: Any,
    num_shards: Any,
    title: Any,
    cluster_by: Any,
    price_per_hour: Any,
    *,
    url: Any = "",
    host_header: Any = "",
    checkpoint: Any = "",
    checkpoint_pvc: Any = None,
    model: Any = "qwen3-asr",
    protocol: Any = "v2",
    concurrency: Any,
    max_failed: Any,
    cpu: Any,
    memory: Any,
    name: Any = "",
    namespace: Any = "",
) -> Any:
    """All shards transcribed, and scored together.

    `name` and `namespace` are the InferenceService's whose address is asked for without `url`.
    """
    parts = components.shards(
        num_shards=num_shards, url=url, host_header=host_header, checkpoint=checkpoint,
        name=name, namespace=namespace, manifest=manifest,
    )  # fmt: skip
    small(uncached(parts))
    with dsl.ParallelFor(parts.output, parallelism=2) as shard:
        asked = components.transcribe(
            shard=shard, model=model, protocol=protocol, concurrency=concurrency,
            max_failed=max_failed, cpu=cpu, memory=memory, manifest=manifest,
        )  # fmt: skip
        sized(uncached(asked), cpu, memory)
        # For pods that are lost: KFP does not try a step again that has failed. What a service
        # answers badly is tried again inside the step.
        asked.set_retry(num_retries=2, backoff_max_duration=MAX_SECONDS_OF_BACKOFF)
        with_data(asked, data_pvc)
        with_key(asked)
        if checkpoint_pvc is not None:
            asked.set_container_image(components.IMAGE + components.GPU_SUFFIX)
            asked.set_accelerator_type(GPU).set_accelerator_limit(1)
            kubernetes.add_toleration(asked, key=GPU, operator="Exists", effect="NoSchedule")
            kubernetes.mount_pvc(asked, pvc_name=checkpoint_pvc, mount_path=MODELS_PATH)
    scored = components.score(
        title=title, cluster_by=cluster_by, price_per_hour=price_per_hour,
        manifest=manifest, journals=dsl.Collected(asked.outputs["journal"]),
    )  # fmt: skip
    return with_data(sized(scored, cpu, memory), data_pvc)


def with_data(task: Any, data_pvc: Any) -> Any:
    """The step sees the recordings."""
    return kubernetes.mount_pvc(task, pvc_name=data_pvc, mount_path=DATA_PATH)


def with_key(task: Any) -> Any:
    """The step may call a service that asks for an API key."""
    keys = {API_KEY_SECRET_KEY: API_KEY_ENV}
    return kubernetes.use_secret_as_env(task, API_KEY_SECRET, keys, optional=True)


def sized(task: Any, cpu: Any, memory: Any) -> Any:
    """The step asks for what it may use: no node is filled with more than it holds."""
    task.set_cpu_request(cpu).set_cpu_limit(cpu)
    return task.set_memory_request(memory).set_memory_limit(memory)


def small(task: Any) -> Any:
    """A step that computes nothing."""
    return sized(task, SMALL_CPU, SMALL_MEMORY)


def uncached(task: Any) -> Any:
    """A step whose result depends on more than its inputs: a service, a cluster, a folder."""
    return task.set_caching_options(enable_caching=False)
