"""A checkpoint as transformers' own model runs it: what `verify` compares with."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch

from predictor.cli.errors import CliError
from predictor.cli.stages import MAX_NEW_TOKENS, Stages, prompt_of
from predictor.engine.start.build import choose_device
from predictor.model.config import CheckpointError, ModelConfig
from predictor.types import SAMPLE_RATE_HZ, Samples

# Of the layout that Qwen publishes besides transformers' own; transformers knows the latter only.
_NATIVE_NAMES: Final = {
    r"^thinker\.audio_tower\.proj1\.": "model.multi_modal_projector.linear_1.",
    r"^thinker\.audio_tower\.proj2\.": "model.multi_modal_projector.linear_2.",
    r"^thinker\.audio_tower\.(?!proj[12]\.)": "model.audio_tower.",
    r"^thinker\.model\.": "model.language_model.",
    r"^thinker\.lm_head\.": "lm_head.",
}
_FOREIGN: Final = ("model_type", "rope_scaling", "rope_theta", "max_source_positions")


class Reference:
    """Transformers' model and processor, in float32. CliError where it cannot read the folder."""

    def __init__(self, folder: Path, device: str) -> None:
        try:
            self._ends = ModelConfig.from_folder(folder).eos_token_ids
            self._extractor, model = _loaded(folder)
            model.generation_config.eos_token_id = list(self._ends)
            model.generation_config.pad_token_id = self._ends[0]
            self._model = model.eval().to(choose_device(device))
        except (
            CheckpointError,
            OSError,
            RuntimeError,
            ValueError,
            LookupError,
            AttributeError,
            TypeError,
        ) as error:
            said = " ".join(str(error).split())[:500]
            raise CliError(f"transformers cannot run {folder}: {said}") from error
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
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
        )
        seconds = time.monotonic() - began_s
        said = output[0, prompt.shape[1] :].tolist()
        tokens = [token for token in said if token not in self._ends]
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


def _loaded(folder: Path) -> tuple[Any, Any]:
    """The feature extractor and the model, from either layout."""
    from transformers import (
        AutoProcessor,
        Qwen3ASRFeatureExtractor,
        Qwen3ASRForConditionalGeneration,
    )

    made = Qwen3ASRForConditionalGeneration
    root = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "thinker_config" not in root:
        extractor = AutoProcessor.from_pretrained(folder).feature_extractor
        return extractor, made.from_pretrained(folder, dtype="float32")
    config = _native_config(root["thinker_config"])
    model: Any = made.from_pretrained(
        folder, config=config, key_mapping=_NATIVE_NAMES, dtype="float32"
    )
    return Qwen3ASRFeatureExtractor(), model


def _native_config(thinker: dict[str, Any]) -> Any:
    """What the original layout says, as transformers' own says it; its positions are plain."""
    from transformers import Qwen3ASRConfig

    audio, text = thinker["audio_config"], thinker["text_config"]
    scaling = text.get("rope_scaling") or {}
    theta = text.get("rope_theta") or scaling.get("rope_theta")
    rope = {"rope_theta": theta, "rope_type": "default"}
    return Qwen3ASRConfig(
        audio_config={key: value for key, value in audio.items() if key not in _FOREIGN},
        text_config={key: value for key, value in text.items() if key not in _FOREIGN}
        | {"rope_parameters": rope},
        audio_token_id=thinker["audio_token_id"],
        tie_word_embeddings=thinker.get("tie_word_embeddings", True),
    )
