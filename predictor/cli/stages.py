"""What the stages of a model say of a recording: transformers' own model, and ours as served."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from predictor.cli.errors import CliError
from predictor.cli.local import LocalRecognizer
from predictor.engine.start.build import choose_device
from predictor.model.checkpoint.weights import load_model
from predictor.model.mel import LogMel
from predictor.model.precision import choose_precision
from predictor.model.quantized import quantizer
from predictor.settings.fields import Settings
from predictor.text.prompt import Prompt, PromptBuilder
from predictor.text.tokenizer import TextTokenizer
from predictor.types import SAMPLE_RATE_HZ, EngineRequest, Samples

Floats = NDArray[np.float32]
_MAX_NEW_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Stages:
    """Of one recording."""

    mel: Floats  # [mel bins, frames]
    encoder: Floats  # [audio tokens, width]
    tokens: list[int]  # greedy, without the end
    logprobs: list[float]  # of the tokens, by the model that said them
    seconds: float  # for the whole answer


class Reference:
    """Transformers' model and processor, in float32. CliError where it cannot read the folder."""

    def __init__(self, folder: Path, device: str) -> None:
        from transformers import AutoProcessor, Qwen3ASRForConditionalGeneration

        try:
            self._extractor: Any = AutoProcessor.from_pretrained(folder).feature_extractor
            made: Any = Qwen3ASRForConditionalGeneration.from_pretrained(folder, dtype="float32")
            self._model = made.eval().to(choose_device(device))
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise CliError(
                f"transformers cannot run {folder}: {error}; verify needs the checkpoint in "
                "transformers' own layout (names that end in -hf)"
            ) from error
        self._prompt = prompt_of(folder)

    @torch.inference_mode()
    def stages(self, samples: Samples) -> Stages:
        """Of one recording, alone."""
        began_s = time.monotonic()
        features, mask = self._features(samples)
        prompt = self._ids(features, mask, ())
        output = self._model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            input_features=features,
            input_features_mask=mask,
            max_new_tokens=_MAX_NEW_TOKENS,
            do_sample=False,
        )
        seconds = time.monotonic() - began_s
        ends = set(self._model.generation_config.eos_token_id)
        tokens = [token for token in output[0, prompt.shape[1] :].tolist() if token not in ends]
        return Stages(
            mel=features[0, :, : int(mask.sum())].float().cpu().numpy(),
            encoder=self._encode(features, mask).float().cpu().numpy(),
            tokens=tokens,
            logprobs=self.judge(samples, tokens)[0],
            seconds=seconds,
        )

    @torch.inference_mode()
    def judge(self, samples: Samples, tokens: Sequence[int]) -> tuple[list[float], list[float]]:
        """Log-probabilities of `tokens`, each behind those before it, and of the likeliest."""
        if not tokens:
            return [], []
        features, mask = self._features(samples)
        ids = self._ids(features, mask, tokens)
        logits = self._model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            input_features=features,
            input_features_mask=mask,
        ).logits[0, -len(tokens) - 1 : -1]
        scores = logits.float().log_softmax(-1)
        chosen = scores.gather(1, torch.tensor(tokens, device=scores.device)[:, None])[:, 0]
        return chosen.tolist(), scores.amax(-1).tolist()

    def _features(self, samples: Samples) -> tuple[torch.Tensor, torch.Tensor]:
        """[1, mel bins, frames], [1, frames]"""
        found = self._extractor(
            samples, padding=True, sampling_rate=SAMPLE_RATE_HZ, return_attention_mask=True,
            return_tensors="pt",
        )  # fmt: skip
        device = self._model.device
        return found["input_features"].to(device), found["attention_mask"].to(device)

    def _encode(self, features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """[audio tokens, width]"""
        encoded: torch.Tensor = self._model.model.get_audio_features(features, mask).pooler_output
        return encoded

    def _ids(
        self, features: torch.Tensor, mask: torch.Tensor, tokens: Sequence[int]
    ) -> torch.Tensor:
        audio = [self._model.config.audio_token_id] * len(self._encode(features, mask))
        ids = [*self._prompt.tokens_before, *audio, *self._prompt.tokens_after, *tokens]
        return torch.tensor([ids], device=self._model.device)


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
                    max_new_tokens=_MAX_NEW_TOKENS,
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
