"""A CUDA device's context, made while torch is still being imported: both take a second or more."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import MutableMapping


def only_device(device: str, environ: MutableMapping[str, str]) -> str:
    """Leave this process one CUDA device, "cuda:N" as the server counts; what it is called here.

    Before anything asks the driver. Threads, kernels and libraries that take the first device
    unless they are told otherwise are then right without being told.
    """
    name, _, index = device.partition(":")
    if name != "cuda" or not index:
        return device
    visible = [part for part in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part]
    place = int(index)
    environ["CUDA_VISIBLE_DEVICES"] = visible[place] if place < len(visible) else index
    return name


def open_early(device: str) -> threading.Thread | None:
    """Begin to make the primary context of "auto" or "cuda[:n]", which torch then finds and uses.

    In a thread of its own, which leaves the interpreter to the imports. Whatever fails here, torch
    will say. None for other devices.
    """
    name, _, index = device.partition(":")
    if name not in ("auto", "cuda"):
        return None
    thread = threading.Thread(target=_retain, args=(int(index or 0),), name="context", daemon=True)
    thread.start()
    return thread


def _retain(index: int) -> None:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return
    handle, context = ctypes.c_int(), ctypes.c_void_p()
    if driver.cuInit(0) == 0 and driver.cuDeviceGet(ctypes.byref(handle), index) == 0:
        driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), handle)
