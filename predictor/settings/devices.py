"""Which GPUs the driver knows, without torch, and whether those of the settings are among them."""

from __future__ import annotations

import ctypes
import functools
import os

from predictor.settings.fields import Settings


@functools.cache
def num_cuda_devices() -> int:
    """How many devices the driver knows. Asked of the driver itself: torch is not imported yet,
    and would not be needed here at all if there are some."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    failed = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    return 0 if failed else count.value


def has_driver() -> bool:
    """Whether NVIDIA's driver is here; it is not started."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def device_problem(settings: Settings) -> str | None:
    """Why an engine could not start on the GPUs that are asked for."""
    if settings.device == "cpu":
        return None
    is_asked_for = settings.device == "cuda"
    if not has_driver():
        return _NO_DRIVER if is_asked_for else None
    if not is_asked_for and settings.devices is None:
        return None
    return count_problem(settings, num_cuda_devices())


def count_problem(settings: Settings, count: int) -> str | None:
    """The same where the driver knows `count` GPUs."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    limited = "" if visible is None else f" (CUDA_VISIBLE_DEVICES={visible})"
    if count == 0:
        if settings.device != "cuda":
            return None  # `auto` serves on the CPU
        return (
            f"device=cuda: the driver finds no GPU{limited}; ask for nvidia.com/gpu in the pod, or "
            "set device to cpu or auto"
        )
    absent = [index for index in settings.devices or () if int(index) >= count]
    if not absent:
        return None
    known = "0" if count == 1 else f"0 to {count - 1}"
    return (
        f"devices={','.join(settings.devices or ())}: there is no GPU {', '.join(absent)}, the "
        f"driver knows {known}{limited}; set devices to auto, or ask for more GPUs"
    )


_NO_DRIVER = (
    "device=cuda: this machine has no CUDA driver (libcuda.so.1); run the container with "
    "its GPUs (docker run --gpus all), or set device to cpu or auto"
)
