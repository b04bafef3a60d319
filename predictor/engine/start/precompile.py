"""Compile the Triton kernels of a start ahead of it, on a machine that need not have a GPU.

    python -m predictor.engine.start.precompile [--models 1.7B,0.6B] [--archs 80,90] [--output DIR]

The GPU image is built with it, so that a pod's first start compiles nothing. Goes through what a
start rehearses, on the CPU and under a stand-in for Triton's driver: it compiles and keeps what the
real one would, kernels and the C launchers beside them, and launches nothing. What it leaves is for
this version of Triton and Python alone; anything else is compiled at start as ever.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import driver as nvidia
from triton.runtime import build, driver

from predictor.engine.cuda.parity import kernel_errors
from predictor.engine.cuda.runner import GraphOptions, GraphRunner
from predictor.engine.start import warm_up as rehearsal
from predictor.model.attention import FP8
from predictor.model.checkpoint.published import PUBLISHED
from predictor.model.config import CheckpointError, ModelConfig
from predictor.model.cuda import quantized as quantized_cuda
from predictor.model.cuda.decoder import Fusion
from predictor.model.cuda.kernel_cache import SHIPPED, folder_of
from predictor.model.model import Model

# Compute capabilities: A100, A10, L4 and L40S, H100 and H200, B200, RTX PRO of the same generation.
ARCHS = (80, 86, 89, 90, 100, 120)
LEAST_ARCH = 80  # with bf16
MAX_PROCESSES = 2  # of 1.3 GB each, wherever an image is built
FP8_ARCH = 89  # the first one
CPU = torch.device("cpu")


def main(argv: list[str] | None = None) -> None:
    """The command line; one process for each arch."""
    parser = argparse.ArgumentParser(
        prog="python -m predictor.engine.start.precompile",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--models",
        type=_models,
        default=list(PUBLISHED.values()),
        help=f"{', '.join(PUBLISHED)} or folders of checkpoints (config.json is read); default all",
    )
    parser.add_argument(
        "--archs",
        type=_archs,
        default=list(ARCHS),
        help=f"compute capabilities without the point; default {','.join(map(str, ARCHS))}",
    )
    parser.add_argument("--output", type=Path, default=SHIPPED, help="default: %(default)s")
    arguments = parser.parse_args(argv)
    if missing := missing_compiler():
        parser.error(missing)
    try:
        arguments.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"argument --output: {error}")
    began_s = time.monotonic()
    num_processes = min(MAX_PROCESSES, len(arguments.archs), len(os.sched_getaffinity(0)))
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_processes, mp_context=spawn, max_tasks_per_child=1) as pool:
        works = [
            pool.submit(precompile, arguments.models, arch, folder_of(arch, arguments.output))
            for arch in arguments.archs
        ]
        for arch, work in zip(arguments.archs, works, strict=True):
            try:
                num_kernels, num_bytes = work.result()
            except BrokenProcessPool:
                parser.error(f"argument --archs: the compiler ended at {arch}; does it know it?")
            sys.stderr.write(
                f"sm_{arch}: {num_kernels} kernels, {num_bytes / 2**20:.1f} MiB, after "
                f"{time.monotonic() - began_s:.0f} s\n"
            )


def missing_compiler() -> str | None:
    """What the C launchers need and this machine lacks."""
    compiler = os.environ.get("CC", "gcc")
    if shutil.which(compiler) is None:
        return f"a C compiler is needed: no {compiler} here (environment variable CC)"
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")  # as Triton's
    headers = Path(sysconfig.get_path("include", scheme)) / "Python.h"
    return None if headers.is_file() else f"Python's headers are needed: no {headers} here"


def _models(text: str) -> list[ModelConfig]:
    try:
        return [
            PUBLISHED[name] if name in PUBLISHED else ModelConfig.from_folder(Path(name))
            for name in text.split(",")
        ]
    except CheckpointError as error:
        message = f"{error}; {', '.join(PUBLISHED)} or folders, with commas and no spaces"
        raise argparse.ArgumentTypeError(message) from error


def _archs(text: str) -> list[int]:
    if (
        not re.fullmatch(r"\d{2,3}(,\d{2,3})*", text)
        or int(min(text.split(","), key=int)) < LEAST_ARCH
    ):
        raise argparse.ArgumentTypeError(f"{text!r}: numbers from {LEAST_ARCH} on, like 80,90")
    return [int(arch) for arch in text.split(",")]


def precompile(models: Iterable[ModelConfig], arch: int, folder: Path) -> tuple[int, int]:
    """Fill `folder` with kernels for the models in bf16 and in the quantized precisions, and
    caches, that the compute capability has; how many kernels, and bytes of all files.
    RuntimeError if none.

    In a process for this alone: afterwards Triton in it is of no use for anything else.
    """
    logging.getLogger("predictor").setLevel(logging.CRITICAL)  # checks fail, nothing was launched
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="libcuda-") as library, torch.inference_mode():
        make_library(Path(library))
        stand_in(arch, folder, Path(library))
        for config in models:
            for precision in precisions(arch):
                compile_all(config, precision)
            if arch >= FP8_ARCH:  # no kernel depends on both weights and cache
                compile_all(config, "bf16", FP8)
    kernels = list(folder.glob("*/*.cubin"))
    if not kernels:
        raise RuntimeError(f"nothing was compiled for sm_{arch}")
    return len(kernels), sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def precisions(arch: int) -> tuple[str, ...]:
    """Those that a start of this kind of device may ask for; others compile when they start."""
    return ("bf16", "int8", "fp8") if arch >= FP8_ARCH else ("bf16", "int8")


def compile_all(
    config: ModelConfig, precision: str, kv_dtype: torch.dtype = torch.bfloat16
) -> None:
    """What a start in this precision goes through: its checks, and the rehearsal."""
    with _Pretence():
        model = Model.empty(rehearsal.one_layer_each(config), device=CPU, dtype=torch.bfloat16)
        model.finish_loading()
        if precision != "bf16":
            quantize_part = quantized_cuda.part_quantizer(precision)
            for part, tensors in model.parts():
                tensors.clear()
                quantize_part(part)
            for _, linear, x in quantized_cuda.trials(model):
                linear(x)
        kernel_errors(Fusion(), model, kv_dtype)
        options = GraphOptions(use_graphs=False, check_kernels=False)
        runner = GraphRunner(
            model, num_slots=rehearsal.NUM_SLOTS, max_model_len=rehearsal.MAX_LENGTH,
            options=options, kv_dtype=kv_dtype,
        )  # fmt: skip
        rehearsal.rehearse(runner)


class _Pretence(TorchFunctionMode):
    """Tensors say that they are on a device; new integers are zeros, since no kernel will fill them
    and some are used as indices; and a product that only a device has is zeros too."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__self__", None) is torch.Tensor.is_cuda:  # its getter
            return True
        if func is torch._scaled_mm:
            return torch.zeros(len(args[0]), args[1].shape[1], dtype=(kwargs or {})["out_dtype"])
        result = func(*args, **(kwargs or {}))
        is_index = func in _UNSET and not result.is_floating_point()
        return result.zero_() if is_index else result


_UNSET = {torch.empty, torch.empty_like, torch.Tensor.new_empty}


class _Driver(nvidia.CudaDriver):
    """Compiles for one kind of device, and has none."""

    def __init__(self, arch: int) -> None:
        self._arch = arch
        self.utils = nvidia.CudaUtils()
        self.launcher_cls = nvidia.CudaLauncher

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._arch, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


# What the C modules give Triton, once they are loaded.
_LOADED = SimpleNamespace(
    launch=lambda *_: None,
    load_binary=lambda *_: (0, 0, 0, 0, 1024),  # module, function, registers, spills, threads
    get_device_properties=lambda _: {"max_shared_mem": 2**30},
    PyCUtensorMap=None,
    cuOccupancyMaxActiveClusters=None,
    set_printf_fifo_size=None,
    fill_tma_descriptor=None,
)


def stand_in(arch: int, folder: Path, library: Path) -> None:
    """From here on Triton compiles into `folder`, for devices that are not there."""
    build._load_module_from_path = lambda *_: _LOADED
    knobs.cache.dir = str(folder)
    knobs.compilation.store_binary_only = True  # what a start reads, and no more
    knobs.nvidia.libcuda_path = str(library)
    driver.set_active(_Driver(arch))


def make_library(folder: Path) -> None:
    """A libcuda.so.1 to link with where no NVIDIA driver is installed. It is never loaded."""
    sources = [Path(nvidia.__file__).with_name("driver.c"), Path(nvidia.__file__)]
    text = "".join(source.read_text() for source in sources)
    names = sorted(set(re.findall(r"\bcu[A-Z]\w+(?=\()", text)))
    source = folder / "libcuda.c"
    source.write_text("".join(f"void {name}(void) {{}}\n" for name in names))
    soname = "libcuda.so.1"
    command = [os.environ.get("CC", "gcc"), "-shared", "-fPIC", f"-Wl,-soname,{soname}"]
    command += ["-o", str(folder / soname), str(source)]
    subprocess.run(command, check=True)  # noqa: S603  our own source


if __name__ == "__main__":
    main()
