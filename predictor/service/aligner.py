"""From the settings to an aligner: which checkpoint, where, what it can do. No torch here."""

from __future__ import annotations

from typing import Final

from predictor.align.wire import AlignerInfo, AlignerSpec
from predictor.model.checkpoint.source import resolve_model
from predictor.model.config import CheckpointError
from predictor.service.engines import devices
from predictor.settings.fields import Settings

MAX_BATCH_S: Final = 120.0  # of audio, in one pass
MAX_CUDA_BATCH_S: Final = 480.0  # where a pass of less is over before the next can be started
MAX_WAITING: Final = 256  # requests; more are refused
CUDA_GATHER_S: Final = 0.05  # the longest that who comes soon after a batch waits for others


def aligner_spec(settings: Settings) -> AlignerSpec:
    """What the aligner's process must know; the checkpoint is fetched if need be.

    Raises CheckpointError.
    """
    try:
        folder = resolve_model(
            model_dir=settings.aligner_dir,
            model_id=settings.aligner_id,
            revision=settings.aligner_revision,
        )
    except CheckpointError as error:
        raise CheckpointError(f"the aligner: {error}") from error
    device = devices(settings)[0]
    is_cuda = device.startswith("cuda")
    return AlignerSpec(
        folder=str(folder),
        device=device,
        precision=settings.aligner_dtype,
        num_threads=settings.num_threads,
        max_batch_s=MAX_CUDA_BATCH_S if is_cuda else MAX_BATCH_S,
        max_waiting=MAX_WAITING,
        gather_s=CUDA_GATHER_S if is_cuda else 0.0,
        log_format=settings.log_format,
        log_level=settings.log_level,
    )


def check_pieces(settings: Settings, info: AlignerInfo) -> None:
    """Raises ValueError where pieces may be longer than what the aligner hears at once."""
    if settings.segment_s > info.max_audio_s:
        raise ValueError(
            f"segment_s={settings.segment_s:g}: the aligner hears {info.max_audio_s:g} s at once, "
            "so pieces may not be longer"
        )
