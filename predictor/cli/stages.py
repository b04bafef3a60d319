"""What the stages of a model say of a recording, as it is served here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from predictor.cli.local import LocalRecognizer
from predictor.engine.start.build import choose_device
from predictor.model.checkpoint.weights import load_model
from predictor.model.mel import LogMel
from predictor.model.precision import choose_precision
from predictor.model.quantized import quantizer
from predictor.settings.fields import Settings
from predictor.text.prompt import Prompt, PromptBuilder
from predictor.text.tokenizer import TextTokenizer
from predictor.types import EngineRequest, Samples

Floats = NDArray[np.float32]
MAX_NEW_TOKENS: Final = 512  # of an answer that is compared


@dataclass(frozen=True, slots=True)
class Stages:
    """Of one recording."""

    mel: Floats  # [mel bins, frames]
    encoder: Floats  # [audio tokens, width]
    tokens: list[int]  # greedy, without the end
    logprobs: list[float]  # of the tokens, by the model that said them
    seconds: float  # for the whole answer


def prompt_of(folder: Path) -> Prompt:
    """That of a request without context and language."""
    return PromptBuilder(TextTokenizer.load(folder), 0).build()


def served(settings: Settings, clips: Sequence[Samples]) -> tuple[str, list[Stages]]:
    """The precision, and the stages of each clip, with the settings that would serve it."""
    assert settings.model_dir is not None
    device = choose_device(settings.device)
    precision = choose_precision(settings.dtype, device)
    encoded = _encoded(settings.model_dir, device, precision.name, clips)
    prompt = prompt_of(settings.model_dir)
    found = []
    with LocalRecognizer(settings, language=None, context="") as recognizer:
        for index, (samples, (mel, encoder)) in enumerate(zip(clips, encoded, strict=True)):
            began_s = time.monotonic()
            tokens, logprobs = recognizer.answer(
                EngineRequest(
                    request_id=f"verify:{index}",
                    samples=samples,
                    tokens_before=prompt.tokens_before,
                    tokens_after=prompt.tokens_after,
                    max_new_tokens=MAX_NEW_TOKENS,
                )
            )
            found.append(Stages(mel, encoder, tokens, logprobs, time.monotonic() - began_s))
    return precision.name, found


@torch.inference_mode()
def _encoded(
    folder: Path, device: torch.device, precision: str, clips: Sequence[Samples]
) -> list[tuple[Floats, Floats]]:
    """Log-mel and encoder output of each clip. The weights are gone when this returns."""
    chosen = choose_precision(precision, device)
    quantize_part = quantizer(chosen.name, device) if chosen.is_quantized else None
    model = load_model(folder, device=device, dtype=chosen.dtype, quantize_part=quantize_part)
    log_mel = LogMel(model.config.audio.num_mel_bins, device=device)
    found = []
    for samples in clips:
        batch = log_mel([samples])
        plan = model.encoder.plan(batch.num_frames)
        encoder = model.encoder(batch.chunks, plan).float().cpu().numpy()
        mel = torch.cat(list(batch.chunks), dim=-1)[:, : batch.num_frames[0]]
        found.append((mel.float().cpu().numpy(), encoder))
    return found
