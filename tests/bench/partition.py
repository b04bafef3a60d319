"""Parts of a device's multiprocessors (CUDA's green contexts), and graphs that run on them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from predictor.engine.cuda.capture import Capturer


@dataclass(frozen=True, slots=True)
class Part:
    """Where to run, and the multiprocessors that products are planned for; None = all."""

    stream: torch.cuda.Stream
    num_multiprocessors: int | None


NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
OWN_DEFAULT_STREAM = 1  # CU_GREEN_CTX_DEFAULT_STREAM; the driver asks for it


def split(device: torch.device, num_multiprocessors: int) -> tuple[Part, Part]:
    """A part of at least so many multiprocessors, whose stream goes first, and one of all others.

    They last until the process ends. RuntimeError where there are none.
    """
    from cuda.bindings import driver  # comes with torch for CUDA

    torch.cuda.current_stream(device).synchronize()  # the primary context is there
    number = _checked(driver.cuDeviceGet(device.index or 0))
    kind = driver.CUdevResourceType.CU_DEV_RESOURCE_TYPE_SM
    everything = _checked(driver.cuDeviceGetDevResource(number, kind))
    some, _, others = _checked(
        driver.cuDevSmResourceSplitByCount(1, everything, 0, num_multiprocessors)
    )
    parts = []
    for resource, priority in ((some[0], -1), (others, 0)):
        described = _checked(driver.cuDevResourceGenerateDesc([resource], 1))
        context = _checked(driver.cuGreenCtxCreate(described, number, OWN_DEFAULT_STREAM))
        stream = _checked(driver.cuGreenCtxStreamCreate(context, NON_BLOCKING, priority))
        on_device = torch.cuda.ExternalStream(int(stream), device=device)  # type: ignore[no-untyped-call]
        parts.append(Part(on_device, int(resource.sm.smCount)))
    return parts[0], parts[1]


def _checked(result: Any) -> Any:
    """What a driver's call gave beside its status; RuntimeError if it failed."""
    status, *given = result
    if int(status):
        raise RuntimeError(f"{status.name} from the CUDA driver")
    return given[0] if len(given) == 1 else given


@contextmanager
def products_on(num_multiprocessors: int, device: torch.device) -> Iterator[None]:
    """Matrix products that are launched, or captured, inside are planned for so many."""
    total = torch.cuda.get_device_properties(device).multi_processor_count
    blas = ctypes.CDLL(f"libcublas.so.{(torch.version.cuda or '').partition('.')[0]}")

    def set_target(count: int) -> None:
        handle = torch.cuda.current_blas_handle()  # type: ignore[no-untyped-call]
        if blas.cublasSetSmCountTarget(ctypes.c_void_p(handle), ctypes.c_int(count)):
            raise RuntimeError("cuBLAS takes no number of multiprocessors")

    set_target(num_multiprocessors)
    torch._C._set_sm_carveout_experimental(total - num_multiprocessors)  # of cublasLt's products
    try:
        yield
    finally:
        set_target(0)
        torch._C._set_sm_carveout_experimental(None)


class PartCapturer(Capturer):
    """Captures on a part's stream, and plans products for its multiprocessors."""

    def __init__(self, device: torch.device, part: Part) -> None:
        super().__init__(device, part.stream)
        self._part = part

    def capture(self, work: Callable[[], None]) -> torch.cuda.CUDAGraph:
        if self._part.num_multiprocessors is None:
            return super().capture(work)
        with products_on(self._part.num_multiprocessors, self._device):
            return super().capture(work)


def part_capturer(device: torch.device, part: Part | None) -> Capturer:
    """For a part of the device, or all of it."""
    return Capturer(device) if part is None else PartCapturer(device, part)
