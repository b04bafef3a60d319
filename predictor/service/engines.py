"""From the settings to engines: how many, where, and with which bounds. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from predictor.engine.link.wire import EngineSpec
from predictor.engine.options import EngineOptions
from predictor.processes import num_cpus
from predictor.settings.devices import num_cuda_devices
from predictor.settings.fields import Settings

_MAX_AUTO_FRONTS: Final = 8
_LONGEST_KEPT_S: Final = 30.0  # of a live utterance in the engine, its silence included


def has_own_process(settings: Settings) -> bool:
    """Whether the engine runs in a process of its own: as set, where there is CUDA, or where one
    process cannot be all there is."""
    if settings.engine_process is not None:
        return settings.engine_process
    several = len(devices(settings)) > 1 or num_fronts(settings) > 1
    return several or (settings.device != "cpu" and has_cuda())


def num_fronts(settings: Settings) -> int:
    """How many processes serve: as set, or by the CPUs, where a GPU leaves them idle."""
    if settings.num_front_processes is not None:
        return settings.num_front_processes
    if settings.device == "cpu" or settings.engine_process is False or not has_cuda():
        return 1
    return max(1, min(_MAX_AUTO_FRONTS, num_cpus() // 2))


def devices(settings: Settings) -> tuple[str, ...]:
    """The devices to serve on, each as torch names it."""
    kind = settings.device
    if kind == "auto":
        kind = "cuda" if has_cuda() else "cpu"
    if settings.devices is not None:
        return tuple(f"{kind}:{index}" for index in settings.devices)
    if kind == "cpu":
        return (kind,)
    return tuple(f"{kind}:{index}" for index in range(max(1, num_cuda_devices())))


def has_cuda() -> bool:
    """Whether the driver knows a device."""
    return num_cuda_devices() > 0


def engine_specs(settings: Settings, folder: Path) -> list[EngineSpec]:
    """What each engine's process must know to make its engine."""
    return [
        EngineSpec(
            model_path=folder,
            device=device,
            dtype=settings.dtype,
            options=engine_options(settings),
            num_threads=settings.num_threads,
            log_format=settings.log_format,
            log_level=settings.log_level,
        )
        for device in devices(settings)
    ]


def engine_options(settings: Settings) -> EngineOptions:
    """The settings that are the engine's."""
    return EngineOptions(
        max_num_seqs=settings.max_num_seqs,
        max_model_len=settings.max_model_len,
        kv_precision=settings.kv_precision,
        kv_memory_fraction=settings.kv_memory_fraction,
        max_prefill_audio_s=settings.max_prefill_audio_s,
        max_kept_sequences=settings.max_live_sessions,
        max_kept_audio_s=max(3_600.0, _LONGEST_KEPT_S * settings.max_live_sessions),
        max_tokens_per_audio_s=settings.max_tokens_per_audio_s,
        stall_timeout_s=settings.stall_timeout_s,
    )
