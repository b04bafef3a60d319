"""Which GPUs the driver knows, without torch, and whether those of the settings are among them."""

from __future__ import annotations

import ctypes
import functools
import os
from typing import Final

from predictor.settings.fields import Settings

FP8_CAPABILITY: Final = (8, 9)  # the first compute capability with 8-bit floats


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


@functools.cache
def compute_capability(index: int) -> tuple[int, int] | None:
    """Of a GPU, as the driver says it; None where it does not."""
    device, number = ctypes.c_int(0), ctypes.c_int(0)
    found = []
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), index):
            return None
        for attribute in (75, 76):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
            if driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, device):
                return None
            found.append(number.value)
    except (OSError, AttributeError):
        return None
    return found[0], found[1]


def precision_problem(settings: Settings) -> str | None:
    """Why 8-bit floats cannot be had, where they are asked for."""
    names = [name for name in ("precision", "kv_precision") if getattr(settings, name) == "fp8"]
    is_of_engines = bool(names)
    if settings.has_aligner and settings.aligner_precision == "fp8":
        names.append("aligner_precision")
    if not names:
        return None
    asked = " and ".join(f"{name}=fp8" for name in names)
    instead = f"set {' and '.join(names)} to auto"
    count = num_cuda_devices() if has_driver() else 0
    if count == 0:
        return f"{asked}: is for CUDA, and there is no GPU here; {instead}"
    used = settings.devices or range(count)
    for index in used if is_of_engines else used[:1]:  # the aligner is on the first
        capability = compute_capability(int(index))
        if capability is not None and capability < FP8_CAPABILITY:
            has = ".".join(map(str, capability))
            return (
                f"{asked}: needs compute capability 8.9 or higher, GPU {index} has {has}; {instead}"
            )
    return None


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
