"""Settings: addresses, processes, keys, limits of requests, logs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from predictor.settings.spec import setting

_MIB: Final = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class ServerFields:
    """Part of Settings."""

    host: str = setting("0.0.0.0", "address to listen on")  # noqa: S104  # a pod's own address
    http_port: int = setting(8080, "HTTP port; 0 takes a free one", low=0, high=65535)
    grpc_port: int = setting(8081, "gRPC port; 0 takes a free one", low=0, high=65535)
    enable_grpc: bool = setting(True, "serve the V2 protocol over gRPC as well")
    num_front_processes: int | None = setting(
        None,
        "processes that speak HTTP and gRPC and decode, all before the same engines; `auto`: one "
        "for two CPUs of the container, 8 at most, where the engine runs on CUDA, else one",
        kind=int,
        low=1,
        high=64,
        none="auto",
    )
    api_keys: tuple[str, ...] = setting(
        (),
        "keys, separated by commas, of which requests must carry one; empty asks for none",
        kind=tuple,
        is_secret=True,
    )
    api_keys_file: Path | None = setting(
        None,
        "further keys: a file of lines `NAME KEY`, or a folder with a file for each; read anew "
        "when it changes",
        kind=Path,
        none="",
    )
    tls_cert_file: Path | None = setting(
        None,
        "certificate chain (PEM) for HTTP and gRPC, read anew when it changes",
        kind=Path,
        none="",
    )
    tls_key_file: Path | None = setting(
        None, "private key (PEM) of `tls_cert_file`", kind=Path, none=""
    )
    admin_port: int | None = setting(
        None,
        "HTTP port of its own for health and metrics, without TLS and keys; 0 takes a free one",
        kind=int,
        low=0,
        high=65535,
        none="off",
    )
    cors_origins: tuple[str, ...] = setting(
        (),
        "origins, separated by commas, whose pages may send requests from a browser; `*` is any",
        kind=tuple,
    )
    check_ready_clip: bool = setting(
        True,
        "become ready only when the model hears the built-in English clip as a sound one does; "
        "false for models that know no English",
    )
    enable_page: bool = setting(
        False, "give browsers that ask for `/` a page to speak into; others get the health answer"
    )
    max_body_bytes: int = setting(
        64 * _MIB, "largest HTTP body or gRPC message", low=1024, high=1024 * _MIB
    )
    spool_dir: Path | None = setting(
        None,
        "folder on disk that takes recordings above 8 MiB while they come in, instead of memory; "
        "`max_body_bytes` does not bound them then; `off` where no disk is writable",
        kind=Path,
        none="off",
    )
    max_spool_bytes: int = setting(
        8 * 1024 * _MIB,
        "most bytes in `spool_dir`, of one recording and of all together",
        low=16 * _MIB,
        high=1 << 42,
    )
    max_connections: int = setting(
        1000,
        "HTTP connections of one front process, and as many of gRPC; further ones are answered "
        "probes only",
        low=1,
        high=1_000_000,
    )
    client_timeout_s: float = setting(
        10.0,
        "time for a request's head to be complete, and for its body to bring 4 kB a second",
        low=1,
        high=3600,
    )
    max_items: int = setting(64, "most recordings in one V1 or V2 request", low=1, high=4096)
    max_context_tokens: int = setting(
        512, "longest context (hot words) of a request, in tokens", low=0, high=8192
    )
    request_timeout_s: float = setting(600.0, "time limit of one request", low=1, high=86400)
    shutdown_delay_s: float = setting(
        0.0, "after SIGTERM, time during which requests are still taken", low=0, high=600
    )
    shutdown_grace_s: float = setting(
        25.0, "after that, time for requests in flight to finish", low=0, high=3600
    )
    log_level: str = setting(
        "info", "lowest level that is logged", choices=("debug", "info", "warning", "error")
    )
    log_format: str = setting(
        "auto",
        "form of the log lines; `auto` is `text` on a terminal, else `json`",
        choices=("auto", "json", "text"),
    )

    log_text: bool = setting(
        False, "add the transcript to a request's log line; else no text is ever logged"
    )
    native_histograms: bool = setting(
        False, "count histograms natively as well, for a Prometheus that scrapes protobuf"
    )
