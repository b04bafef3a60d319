"""The most memory that callers can make a pod take, by the server's own limits.

Measured is what a server takes with the work that fits it; on top, everything that a limit lets
callers have at the same time. `tests/chaos/test_pods.py` attacks a server in a cgroup of it.
"""

from __future__ import annotations

from predictor.audio.memory_guard import MAX_JOB_BYTES, MAX_PAID_BYTES
from predictor.settings.fields import Settings

MIB = 1024 * 1024
SAMPLE_BYTES_PER_S = 16_000 * 4
CONNECTION_BYTES = 128 * 1024  # a head, what is read ahead of it; gRPC's window
LONG_DECODER_BYTES = 64 * MIB  # a process that is started for long recordings
SMALL_AT_ONCE = 2  # gRPC messages that are read for questions about the model
COPIES = 2  # of a gRPC message, while the library hands it over


def parts_mib(
    settings: Settings,
    measured_mib: float,
    *,
    num_fronts: int,
    num_decoders: int,
    num_sample_copies: int,
) -> dict[str, float]:
    """What each limit allows. `num_decoders`: where no setting says it; `num_sample_copies`:
    processes that hold a recording's samples."""
    body, pending = settings.max_body_bytes, settings.max_pending_bytes
    of_live = settings.max_live_sessions * settings.segment_s * SAMPLE_BYTES_PER_S
    lying = MAX_JOB_BYTES + min(body, MAX_PAID_BYTES)  # of a decoder
    decoders = (settings.num_decode_workers or num_decoders) + settings.max_long_recordings
    held = settings.max_held_audio_s * SAMPLE_BYTES_PER_S * num_sample_copies
    parts = {
        "recordings": held,
        "live sessions": of_live,
        "bodies": pending,
        "the same out of base64": pending * 3 / 4,
        "gRPC messages being handed over": pending / 2,
        "gRPC questions": num_fronts * SMALL_AT_ONCE * COPIES * body,
        "gRPC streams": num_fronts * settings.max_grpc_streams * COPIES * body,
        "connections": num_fronts * settings.max_connections * CONNECTION_BYTES,
        "decoders of long recordings": settings.max_long_recordings * LONG_DECODER_BYTES,
        "headers that lie to decoders": decoders * lying,
    }
    return {"measured": measured_mib, **{name: size / MIB for name, size in parts.items()}}


def shown(parts: dict[str, float]) -> str:
    """As SIZES.md says it."""
    listed = "; ".join(f"{name} {size:,.0f}" for name, size in parts.items())
    return f"{sum(parts.values()):,.0f} | {listed}"
