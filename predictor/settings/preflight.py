"""What can be said about a start before anything heavy is imported: folders, device and ports.

Each answer is one line that names the setting, its value and what to do, or None.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from pathlib import Path
from typing import Final

from predictor.settings.fields import Settings

_CONFIG: Final = "config.json"


def problems(settings: Settings) -> list[str]:
    """Everything that would keep the server from starting and is cheap to see."""
    found = []
    if settings.model_dir is not None and (problem := checkpoint_problem(settings.model_dir)):
        found.append(problem)
    aligner = settings.aligner_dir
    if aligner is not None and (problem := checkpoint_problem(aligner, "aligner_dir")):
        found.append(problem)
    if settings.device == "cuda" and not has_driver():
        found.append(
            "device=cuda: this machine has no CUDA driver (libcuda.so.1); run the container with "
            "its GPUs (docker run --gpus all), or set device to cpu or auto"
        )
    for name in ("api_keys_file", "tls_cert_file", "tls_key_file"):
        path: Path | None = getattr(settings, name)
        if path is not None and not os.access(path, os.R_OK):
            reason = _UNREADABLE.format(uid=os.getuid()) if path.exists() else "is not there"
            found.append(f"{name} {path}: {reason}")
    ports = {"http_port": settings.http_port}
    if settings.enable_grpc:
        ports["grpc_port"] = settings.grpc_port
    if settings.admin_port is not None:
        ports["admin_port"] = settings.admin_port
    if settings.spool_dir is not None and not os.access(settings.spool_dir, os.W_OK | os.X_OK):
        found.append(
            f"spool_dir={settings.spool_dir}: user {os.getuid()} cannot write there; mount a "
            "folder that is writable, or set spool_dir to off"
        )
    for name, port in ports.items():
        if port and (problem := port_problem(settings.host, name, port)):
            found.append(problem)
    return found


def has_driver() -> bool:
    """Whether NVIDIA's driver is here; it is not started, which forked processes would not bear."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def checkpoint_problem(folder: Path, setting: str = "model_dir") -> str | None:
    """Why `folder` cannot be served as far as its files say."""
    said = f"{setting} {folder}:"
    try:
        names = os.listdir(folder)
    except OSError as error:
        return f"{said} {_reason(error, setting)}"
    if _CONFIG not in names:
        what = "is empty" if not names else f"holds no {_CONFIG}"
        return f"{said} {what}; it must be a checkpoint's folder (config.json, *.safetensors)"
    weights = [name for name in names if name.endswith(".safetensors")]
    if not weights:
        return f"{said} holds no weights (*.safetensors); was the download complete?"
    for name in (_CONFIG, *weights):
        if not os.access(folder / name, os.R_OK):
            return f"{said} {name} {_UNREADABLE.format(uid=os.getuid())}"
    return None


_UNREADABLE: Final = "cannot be read by user {uid}; chmod it, or run as its owner"


def _reason(error: OSError, setting: str) -> str:
    if error.errno == errno.ENOENT:
        return f"no such folder; mount the checkpoint there or set {setting}"
    if error.errno == errno.ENOTDIR:
        return "is a file; give the folder that holds config.json"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"the folder {_UNREADABLE.format(uid=os.getuid())}"
    return str(error.strerror)


def port_problem(host: str, name: str, port: int) -> str | None:
    """Why nobody could listen there now; `name` is the setting's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family):
            return None
    except OSError as error:
        return listen_problem(error, host, name, port)


def listen_problem(error: OSError, host: str, name: str, port: int) -> str:
    """Why nobody could listen there, by the error that it gave."""
    if error.errno == errno.EADDRINUSE:
        return f"{name}={port}: the port is taken; set {name} to another, 0 takes a free one"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{name}={port}: user {os.getuid()} may not listen there; take one above 1023"
    return f"host={host}, {name}={port}: {error.strerror}"
