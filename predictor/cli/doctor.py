"""`qwen3-asr doctor`: whatever a server needs, looked at one by one, with what to do about it."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from predictor.cli.arguments import command_parser
from predictor.cli.checkpoint import loaded
from predictor.cli.cluster import look
from predictor.cli.errors import FAILED, OK, CliError

if TYPE_CHECKING:
    from predictor.settings.fields import Settings

_ABOUT = """\
Check device, packages, checkpoint, ports and settings; exit code 1 if the server would not start.

  qwen3-asr doctor
  qwen3-asr doctor --model_dir /models/Qwen3-ASR-1.7B --http_port 9000     settings as for serve
"""
_PACKAGES: Final = ("torch", "torchaudio", "kserve", "grpcio", "av", "soundfile", "soxr")
_SHARED: Final = "/dev/shm"  # noqa: S108  # looked at, not written to

Verdict = Literal["ok", "note", "BAD"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    verdict: Verdict
    what: str
    said: str


def run(argv: list[str]) -> int:
    """Print the report."""
    if {"-h", "--help"} & set(argv):
        _parser().parse_args(["--help"])
    found = []
    for finding in check(argv):
        sys.stdout.write(f"{finding.verdict:<5} {finding.what:<12} {finding.said}\n")
        sys.stdout.flush()
        found.append(finding)
    bad = sum(finding.verdict == "BAD" for finding in found)
    sys.stdout.write(f"\n{bad} of {len(found)} checks say that a server would not work\n")
    return FAILED if bad else OK


def _parser() -> argparse.ArgumentParser:
    return command_parser("doctor", _ABOUT, usage="qwen3-asr doctor [--NAME VALUE ...]")


def check(argv: list[str]) -> Iterator[Finding]:
    """The checks in the order of the report; `argv` are settings as flags."""
    yield _python()
    yield from _settings(argv)
    yield from _packages()
    yield _codecs()
    yield from _devices()
    yield _shared_memory()
    yield _cluster()


def _python() -> Finding:
    said = f"{sys.version.split()[0]}, {os.cpu_count()} CPUs"
    return Finding("ok" if sys.version_info >= (3, 11) else "BAD", "python", said)


def _settings(argv: list[str]) -> Iterator[Finding]:
    from predictor.settings.preflight import notes, problems

    try:
        settings = loaded(argv, os.environ)
    except CliError as error:
        yield Finding("BAD", "settings", " ".join(str(error).split()))
        return
    num_set = sum(source != "default" for source in settings.sources.values())
    yield Finding("ok", "settings", f"valid, {num_set} differ from the defaults")
    found = problems(settings)
    for problem in found:
        yield Finding("BAD", "start", problem)
    for note in notes(settings):
        yield Finding("note", "start", note)
    if not found:
        yield from _can_start(settings)


def _can_start(settings: Settings) -> Iterator[Finding]:
    """What was looked at, where nothing speaks against a start."""
    checkpoint = f"{settings.model_dir}: configuration, tokenizer and weights are whole"
    if settings.model_dir is None:
        checkpoint = f"{settings.model_id}: will be downloaded from the hub, or is there already"
    yield Finding("ok", "checkpoint", checkpoint)
    ports = [settings.http_port, *([settings.grpc_port] if settings.enable_grpc else [])]
    ports += [] if settings.admin_port is None else [settings.admin_port]
    free = ", ".join("any" if port == 0 else str(port) for port in ports)
    yield Finding("ok", "ports", f"free on {settings.host}: {free}")


def _packages() -> Iterator[Finding]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding("BAD", "packages", f"{name} is missing: install this package again")
    said = ", ".join(f"{name} {version}" for name, version in versions.items())
    yield Finding("ok", "packages", said)
    pair = [versions.get(name, "").partition("+")[0] for name in ("torch", "torchaudio")]
    if pair[0] != pair[1]:
        said = f"torch {pair[0]} and torchaudio {pair[1]} do not fit; install torchaudio=={pair[0]}"
        yield Finding("BAD", "packages", said)


def _codecs() -> Finding:
    """By decoding and resampling one of the bundled recordings."""
    try:
        import numpy as np
        import soundfile
        import soxr

        from predictor.service.ready_clip import CLIP

        samples, rate_hz = soundfile.read(CLIP, dtype="float32")
        low = soxr.resample(samples, rate_hz, 8_000)
        if len(low) != len(samples) // 2 or not np.isfinite(low).all():
            return Finding("BAD", "codecs", "soxr resamples wrongly; install it again")
        import av

        said = f"FFmpeg with {len(av.codecs_available)} codecs, libsndfile, soxr"
        return Finding("ok", "codecs", said)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        return Finding("BAD", "codecs", f"{error}")


def _devices() -> Iterator[Finding]:
    from predictor.settings.devices import num_cuda_devices

    count = num_cuda_devices()
    if count == 0:
        said = (
            "no NVIDIA driver finds a GPU: serving on CPU; in a container, ask for nvidia.com/gpu"
        )
        yield Finding("note", "device", said)
        return
    query = ["--query-gpu=name,driver_version,compute_cap,memory.total,memory.free"]
    tool = shutil.which("nvidia-smi")
    if tool is None:
        yield Finding("ok", "device", f"{count} CUDA devices (nvidia-smi is not here to say more)")
    else:
        command = [tool, *query, "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        for line in done.stdout.splitlines():
            name, driver, capability, total, free = (part.strip() for part in line.split(","))
            said = (
                f"{name}, driver {driver}, compute capability {capability}, {free} of {total} free"
            )
            enough = float(capability or 0) >= 8.0
            yield Finding("ok" if enough else "note", "device", said)
    if importlib.util.find_spec("triton") is None:
        yield Finding("BAD", "device", "triton is missing, which torch's CUDA build brings")


def _shared_memory() -> Finding:
    """Samples travel between processes through memory files, which count as the container's
    memory: however small /dev/shm is, nothing of ours lies there."""
    try:
        with open(os.memfd_create("doctor"), "wb", buffering=0) as file:
            file.write(bytes(1 << 20))
    except OSError as error:
        said = f"memfd_create: {error.strerror}; samples cannot pass between processes"
        return Finding("BAD", "shared", f"{said}: allow it in the pod's seccomp profile")
    try:
        stat = os.statvfs(_SHARED)
    except OSError:
        return Finding("ok", "shared", "memory files work; there is no /dev/shm, none is needed")
    size = stat.f_blocks * stat.f_frsize
    said = f"memory files work; {_SHARED} has {size >> 20} MiB, of which nothing is needed"
    return Finding("ok", "shared", said)


def _cluster() -> Finding:
    is_fine, said = look()
    return Finding("ok" if is_fine else "note", "cluster", said)
