"""From the settings to decoders, and what they may be asked for."""

from __future__ import annotations

from predictor.audio.decode import AudioDecoder, AudioLimits, AudioOptions, CutOptions
from predictor.audio.limits import channel_of
from predictor.audio.pool import PoolObserver
from predictor.metrics import Metrics
from predictor.service.transcriber import MAX_SEGMENTS_AT_ONCE
from predictor.settings.fields import Settings


def build_decoder(
    settings: Settings, metrics: Metrics, num_workers: int, num_long: int
) -> AudioDecoder:
    """Not started. `num_workers` processes for short recordings, up to `num_long` for others."""
    return AudioDecoder(
        _limits(settings),
        num_workers=num_workers,
        options=AudioOptions(
            channel=channel_of(settings.audio_channel),
            high_pass_hz=settings.high_pass_hz,
            loudness_lufs=settings.loudness_lufs,
        ),
        cuts=_cuts(settings),
        num_long=num_long,
        window_s=MAX_SEGMENTS_AT_ONCE * settings.segment_s,
        observer=PoolObserver(
            busy=lambda lane, more: metrics.decode_workers_busy.labels(lane=lane).inc(more),
            replaced=metrics.decode_workers_replaced.inc,
        ),
    )


def _cuts(settings: Settings) -> CutOptions:
    return CutOptions(
        segment_s=settings.segment_s,
        vad=settings.vad,  # type: ignore[arg-type]  # one of the setting's choices
        threshold=settings.vad_threshold,
        margin_s=settings.vad_margin_s,
        min_speech_s=settings.vad_min_speech_s,
        min_silence_s=settings.vad_min_silence_s,
    )


def _limits(settings: Settings) -> AudioLimits:
    on_disk = 0 if settings.spool_dir is None else settings.max_spool_bytes
    return AudioLimits(
        max_bytes=max(settings.max_body_bytes, on_disk),
        max_duration_s=settings.max_audio_s,
        max_channels=settings.max_channels,
        max_decoded_values=settings.max_decoded_values,
        decode_timeout_s=settings.decode_timeout_s,
        max_pending_bytes=settings.max_pending_bytes,
    )
