"""What can be said about a start before anything heavy is imported: folders, device and ports.

Each answer is one line that names the setting, its value and what to do, or None.
"""

from __future__ import annotations

import os
from pathlib import Path

from predictor.settings.checkpoint_files import UNREADABLE, checkpoint_problem
from predictor.settings.devices import device_problem, has_driver, precision_problem
from predictor.settings.fields import Settings
from predictor.settings.folders import folder_problem, space_note, temporary_problem
from predictor.settings.limits import clock_note, descriptor_problem
from predictor.settings.listening import host_problem, port_problem


def problems(settings: Settings) -> list[str]:
    """Everything that would keep the server from starting and is cheap to see."""
    found = _checkpoints(settings)
    found.append(device_problem(settings) or precision_problem(settings))
    files = _unreadable(settings)
    found += files
    if not any(found):
        found += _secrets(settings)
    if settings.spool_dir is not None:
        found.append(folder_problem("spool_dir", settings.spool_dir, is_made=False))
    if settings.jobs_dir is not None:
        found.append(folder_problem("jobs_dir", settings.jobs_dir, is_made=True))
    if _has_processes(settings):
        found.append(temporary_problem())
    found.append(descriptor_problem())
    found += _ports(settings)
    return [problem for problem in found if problem]


def notes(settings: Settings) -> list[str]:
    """What does not keep the server from starting, and is better known."""
    found = [clock_note()]
    if settings.spool_dir is not None:
        limit = settings.max_spool_bytes
        found.append(space_note("spool_dir", settings.spool_dir, "max_spool_bytes", limit))
    if settings.jobs_dir is not None:
        limit = settings.max_jobs_bytes
        found.append(space_note("jobs_dir", settings.jobs_dir, "max_jobs_bytes", limit))
    if settings.tls_cert_file is not None:
        from predictor.settings.secret_files import certificate_note

        found.append(certificate_note(settings.tls_cert_file))
    return [note for note in found if note]


def _checkpoints(settings: Settings) -> list[str | None]:
    found = []
    if settings.model_dir is not None:
        found.append(checkpoint_problem(settings.model_dir))
    if settings.aligner_dir is not None:
        found.append(checkpoint_problem(settings.aligner_dir, "aligner_dir"))
    return found


def _unreadable(settings: Settings) -> list[str | None]:
    found: list[str | None] = []
    for name in ("api_keys_file", "tls_cert_file", "tls_key_file"):
        path: Path | None = getattr(settings, name)
        if path is not None and not os.access(path, os.R_OK):
            reason = UNREADABLE.format(uid=os.getuid()) if path.exists() else "is not there"
            found.append(f"{name} {path}: {reason}")
    return found


def _secrets(settings: Settings) -> list[str | None]:
    """Keys and TLS; imported where there are any."""
    keys, cert, key = settings.api_keys_file, settings.tls_cert_file, settings.tls_key_file
    if keys is None and cert is None:
        return []
    from predictor.settings.secret_files import keys_problem, tls_problem

    found = [] if keys is None else [keys_problem(keys)]
    if cert is not None and key is not None:
        found.append(tls_problem(cert, key))
    return found


def _has_processes(settings: Settings) -> bool:
    """Whether the engine, an aligner or fronts are processes of their own."""
    if settings.has_aligner or settings.engine_process or (settings.num_front_processes or 1) > 1:
        return True
    return len(settings.devices or ()) > 1 or (settings.device != "cpu" and has_driver())


def _ports(settings: Settings) -> list[str | None]:
    if problem := host_problem(settings.host):
        return [problem]
    ports = {"http_port": settings.http_port}
    if settings.enable_grpc:
        ports["grpc_port"] = settings.grpc_port
    if settings.admin_port is not None:
        ports["admin_port"] = settings.admin_port
    return [port_problem(settings.host, name, port) for name, port in ports.items()]
