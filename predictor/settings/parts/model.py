"""Settings: which checkpoint is served, where, and in what precision."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from predictor.settings.spec import setting

DEFAULT_MODEL_NAME: Final = "qwen3-asr"
DEFAULT_MODEL_DIR: Final = Path("/mnt/models")  # where KServe's storage initializer puts weights
PRECISIONS: Final = {
    "auto": "auto",
    "fp32": "float32",
    "bf16": "bfloat16",
    "fp16": "float16",
    "int8": "int8",
    "fp8": "fp8",
}


@dataclass(frozen=True, kw_only=True)
class ModelFields:
    """Part of Settings."""

    model_name: str = setting(
        DEFAULT_MODEL_NAME,
        f"name in every protocol; `{DEFAULT_MODEL_NAME}` is answered to as well",
    )
    model_aliases: tuple[str, ...] = setting(
        (),
        "further names the model answers to, separated by commas, such as `whisper-1` or a hub id",
        kind=tuple,
    )
    model_dir: Path | None = setting(
        None,
        f"folder of the checkpoint; `{DEFAULT_MODEL_DIR}` when no `model_id` is given either",
        kind=Path,
        none="",
        env=("MODEL_PATH",),
    )
    model_id: str | None = setting(
        None, "hub id of the checkpoint, instead of `model_dir`", kind=str, none=""
    )
    model_revision: str | None = setting(
        None, "branch, tag or commit of `model_id`", kind=str, none=""
    )
    aligner_dir: Path | None = setting(
        None,
        "folder of a forced aligner, which gives words their times; without one there are none",
        kind=Path,
        none="",
    )
    aligner_id: str | None = setting(
        None, "hub id of a forced aligner, instead of `aligner_dir`", kind=str, none=""
    )
    aligner_revision: str | None = setting(
        None, "branch, tag or commit of `aligner_id`", kind=str, none=""
    )
    aligner_precision: str = setting(
        "auto",
        "what the forced aligner computes in: `auto` is `precision`, or its `auto` where that is "
        "in 8 bits; `fp8` is for CUDA with compute capability 8.9 or higher",
        choices=tuple(name for name in PRECISIONS if name != "int8"),
    )
    device: str = setting(
        "auto", "`auto` takes CUDA where there is one", choices=("auto", "cpu", "cuda")
    )
    precision: str = setting(
        "auto",
        "`auto` is bf16 on CUDA and fp32 on CPU; `fp8` is for CUDA",
        choices=tuple(PRECISIONS),
    )
    devices: tuple[str, ...] | None = setting(
        None,
        "indices of the devices to serve on, separated by commas, with one engine each; `auto` "
        "takes all CUDA devices, or the CPU once",
        kind=tuple,
        none="auto",
    )
    kv_precision: str = setting(
        "auto",
        "what keys and values are kept in: `auto` is what is computed with; `fp8`, 8 bits, is for "
        "CUDA with compute capability 8.9 or higher and a `precision` other than `fp32`",
        choices=("auto", "fp8"),
    )
    num_threads: int | None = setting(
        None,
        "CPU threads of torch; `auto` leaves it to torch",
        kind=int,
        low=1,
        high=1024,
        none="auto",
    )
