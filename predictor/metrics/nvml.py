"""Memory and use of the GPUs by NVIDIA's management library, where nvidia-ml-py is installed.

Nothing needs it: without the package, the library or a GPU there are no such figures.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

from prometheus_client import CollectorRegistry

from predictor.metrics.figures import Figure, Figures, Values

logger = logging.getLogger(__name__)

_USED: Final = "qwen3_asr_device_memory_used_bytes"
_TOTAL: Final = "qwen3_asr_device_memory_total_bytes"
_BUSY: Final = "qwen3_asr_device_busy_ratio"
_FIGURES: Final = (
    Figure(_USED, "gauge", "Memory of the GPU that is taken, by anybody (NVML).", ("device",)),
    Figure(_TOTAL, "gauge", "Memory of the GPU (NVML).", ("device",)),
    Figure(
        _BUSY, "gauge", "Share of the last moments in which the GPU worked (NVML).", ("device",)
    ),
)


def device_figures(registry: CollectorRegistry) -> Figures:
    """Nothing is said until `watch_devices`."""
    return Figures(registry, _FIGURES)


def watch_devices(figures: Figures, devices: Sequence[str]) -> None:
    """`devices` as torch names them, such as "cuda:0"; others are passed over."""
    names = [name for name in devices if name.startswith("cuda")]
    if not names:
        return
    try:
        nvml: Any = importlib.import_module("pynvml")
        nvml.nvmlInit()
        handles = {name: _handle(nvml, name, os.environ) for name in names}
    except Exception as error:  # noqa: BLE001  no package, no library, no permission
        logger.info("no figures of the GPUs: %s", error)
        return

    def read() -> dict[str, Values]:
        found: dict[str, list[tuple[tuple[str, ...], float]]] = {_USED: [], _TOTAL: [], _BUSY: []}
        for name, handle in handles.items():
            try:
                memory = nvml.nvmlDeviceGetMemoryInfo(handle)
                found[_USED].append(((name,), float(memory.used)))
                found[_TOTAL].append(((name,), float(memory.total)))
                busy = nvml.nvmlDeviceGetUtilizationRates(
                    handle
                ).gpu  # not of a part of a GPU (MIG)
                found[_BUSY].append(((name,), busy / 100))
            except nvml.NVMLError:
                continue
        return dict(found)

    figures.read = read


def _handle(nvml: Any, device: str, environ: Mapping[str, str]) -> Any:
    """NVML counts all GPUs of the machine, CUDA those of CUDA_VISIBLE_DEVICES: by index or UUID."""
    index = int(device.partition(":")[2] or 0)
    visible = [each.strip() for each in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]
    if not visible:
        return nvml.nvmlDeviceGetHandleByIndex(index)
    chosen = visible[index]
    if chosen.isdigit():
        return nvml.nvmlDeviceGetHandleByIndex(int(chosen))
    return nvml.nvmlDeviceGetHandleByUUID(chosen)
