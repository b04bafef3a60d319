"""How many sequences fit: cache slots are planned at start from the memory the device has left."""

from __future__ import annotations

from pathlib import Path

import torch

from predictor.engine.options import EngineOptions
from predictor.model.config import TextConfig


def plan_slots(
    text: TextConfig,
    options: EngineOptions,
    max_model_len: int,
    device: torch.device,
    dtype: torch.dtype,
) -> int:
    """Slots of `max_model_len` tokens, `options.max_num_seqs` at most; ValueError if none fits.

    Called once the weights are loaded. What the fraction leaves is for the activations.
    """
    needed = slot_bytes(text, max_model_len, dtype)
    free = free_bytes(device)
    if free is None:
        return options.max_num_seqs
    budget = int(free * options.kv_memory_fraction)
    if budget < needed:
        raise ValueError(
            f"one sequence of max_model_len {max_model_len} needs {needed / 2**20:.0f} MiB of "
            f"cache, but kv_memory_fraction {options.kv_memory_fraction:g} of the memory free on "
            f"{device} is {budget / 2**20:.0f} MiB"
        )
    return min(options.max_num_seqs, budget // needed)


def slot_bytes(text: TextConfig, max_model_len: int, dtype: torch.dtype) -> int:
    """Bytes of one slot: keys and values of every layer for `max_model_len` tokens."""
    per_token = 2 * text.num_layers * text.num_kv_heads * text.head_dim * dtype.itemsize
    return per_token * max_model_len


def free_bytes(device: torch.device) -> int | None:
    """Memory that is left on `device`; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_host_bytes(Path("/"))


def free_host_bytes(root: Path) -> int | None:
    """The machine's available memory or the container's, whichever is less (Linux only)."""
    known = [_meminfo(root / "proc/meminfo"), _cgroup(root / "sys/fs/cgroup")]
    return min((size for size in known if size is not None), default=None)


def _meminfo(file: Path) -> int | None:
    if not file.is_file():
        return None
    for line in file.read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return None


def _cgroup(folder: Path) -> int | None:
    limit, used = folder / "memory.max", folder / "memory.current"
    if not (limit.is_file() and used.is_file()):
        return None
    text = limit.read_text(encoding="ascii").strip()
    if text == "max":
        return None
    return max(0, int(text) - int(used.read_text(encoding="ascii")))
