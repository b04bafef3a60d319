"""What can be said about a start before anything heavy is imported: folders, device and ports.

Each answer is one line that names the setting, its value and what to do, or None.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from pathlib import Path

from predictor.settings.checkpoint_files import UNREADABLE, checkpoint_problem
from predictor.settings.fields import Settings


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
            reason = UNREADABLE.format(uid=os.getuid()) if path.exists() else "is not there"
            found.append(f"{name} {path}: {reason}")
    found += [] if found else _secrets(settings)
    if settings.spool_dir is not None:
        found += _folder("spool_dir", settings.spool_dir, is_made=False)
    if settings.jobs_dir is not None:
        found += _folder("jobs_dir", settings.jobs_dir, is_made=True)
    ports = {"http_port": settings.http_port}
    if settings.enable_grpc:
        ports["grpc_port"] = settings.grpc_port
    if settings.admin_port is not None:
        ports["admin_port"] = settings.admin_port
    for name, port in ports.items():
        if problem := port_problem(settings.host, name, port):
            found.append(problem)
    return found


def _folder(name: str, folder: Path, *, is_made: bool) -> list[str]:
    """Why nothing could be written there. A folder that `is_made` may be missing at first."""
    there = folder
    while is_made and not there.exists() and there != there.parent:
        there = there.parent
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return []
    what = "no such folder" if not there.exists() else "is a file"
    if there.is_dir():
        what = f"user {os.getuid()} cannot write in {there}"
    return [f"{name} {folder}: {what}; mount a folder that is writable, or set {name} to off"]


def notes(settings: Settings) -> list[str]:
    """What does not keep the server from starting, and is better known."""
    if settings.tls_cert_file is None:
        return []
    from predictor.settings.secret_files import certificate_note

    note = certificate_note(settings.tls_cert_file)
    return [] if note is None else [note]


def _secrets(settings: Settings) -> list[str]:
    """Keys and TLS; imported where there are any."""
    keys, cert, key = settings.api_keys_file, settings.tls_cert_file, settings.tls_key_file
    if keys is None and cert is None:
        return []
    from predictor.settings.secret_files import keys_problem, tls_problem

    found = [] if keys is None else [keys_problem(keys)]
    if cert is not None and key is not None:
        found.append(tls_problem(cert, key))
    return [problem for problem in found if problem]


def has_driver() -> bool:
    """Whether NVIDIA's driver is here; it is not started, which forked processes would not bear."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


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
