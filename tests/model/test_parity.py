"""Our encoder and decoder against transformers' on the same weights, in float32 on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from predictor.model.attention import CacheView, KvCache, Packing
from predictor.model.config import num_audio_tokens
from predictor.model.mel import LogMel
from predictor.model.model import Model
from tests.model.checkpoints import clip, features_of

# Float32 sums in another order; the values themselves are of the order of 1 to 10.
TOLERANCE = {"rtol": 1e-4, "atol": 5e-5}
DURATIONS_S = (0.1, 0.505, 1.0, 3.27, 7.99, 8.0, 8.01, 12.34, 16.0, 30.0)


def encode(model: Model, durations_s: tuple[float, ...]) -> list[torch.Tensor]:
    clips = [clip(duration_s, seed) for seed, duration_s in enumerate(durations_s)]
    batch = LogMel(model.config.audio.num_mel_bins, device="cpu")(clips)
    plan = model.encoder.plan(batch.num_frames)
    return list(model.encoder(batch.chunks, plan).split(plan.num_tokens))


def test_encoder_output_of_a_mixed_batch_equals_each_clip_alone_in_transformers(
    model: Model, reference: Any
) -> None:
    outputs = encode(model, DURATIONS_S)
    for seed, duration_s in enumerate(DURATIONS_S):
        features, mask = features_of(clip(duration_s, seed))
        expected = reference.model.get_audio_features(features, mask).pooler_output
        assert len(expected) == num_audio_tokens(int(duration_s * 16_000))
        torch.testing.assert_close(outputs[seed], expected, **TOLERANCE)


def test_a_clip_encodes_the_same_whatever_its_batch_mates(model: Model) -> None:
    alone = encode(model, (3.27,))[0]
    among = encode(model, (3.27, 30.0, 0.1, 9.5))[0]
    torch.testing.assert_close(among, alone, rtol=1e-5, atol=1e-5)


def test_convolving_in_parts_changes_nothing(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = encode(model, (30.0, 2.5))
    monkeypatch.setattr("predictor.model.encoder.CONV_BATCH_CHUNKS", 4)
    for part, expected in zip(encode(model, (30.0, 2.5)), whole, strict=True):
        torch.testing.assert_close(part, expected, rtol=1e-5, atol=1e-5)


def prefill(
    model: Model, cache: KvCache, prompts: list[torch.Tensor], slots: list[int]
) -> torch.Tensor:
    """Logits [T, vocabulary] of packed prompts written to `slots`."""
    positions = [torch.arange(len(prompt)) for prompt in prompts]
    places = [slot * cache.page_tokens + p for slot, p in zip(slots, positions, strict=True)]
    packing = Packing.of([len(p) for p in prompts], device=model.device, dtype=model.dtype)
    hidden = model.decoder.prefill(
        model.decoder.embedding(torch.cat(prompts)),
        torch.cat(positions),
        torch.cat(places),
        packing,
        cache,
    )
    return model.decoder.logits(hidden)


def decode(
    model: Model, cache: KvCache, tokens: list[int], slots: list[int], lengths: list[int]
) -> torch.Tensor:
    """Logits [B, vocabulary] after one more token in each slot; lengths count it."""
    positions = torch.tensor(lengths) - 1
    places = torch.tensor(slots) * cache.page_tokens + positions
    pages = [[slot] for slot in slots]  # each as long as a sequence
    view = CacheView.of(pages, lengths, cache.page_tokens, device=model.device)
    hidden = model.decoder.decode(torch.tensor(tokens), positions, places, view, cache)
    return model.decoder.logits(hidden)


def reference_logits(reference: Any, tokens: torch.Tensor) -> torch.Tensor:
    logits = reference(input_ids=tokens[None]).logits[0]
    assert isinstance(logits, torch.Tensor)
    return logits


def random_prompts(model: Model, lengths: list[int], seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    vocab_size = model.config.text.vocab_size
    special = model.config.audio_token_id
    prompts = [torch.randint(0, vocab_size - 1, (n,), generator=generator) for n in lengths]
    return [torch.where(p == special, 0, p) for p in prompts]


@pytest.mark.parametrize("lengths", [[40], [33, 33], [5, 120, 1, 64]])
def test_prefill_logits_equal_each_prompt_alone(
    model: Model, reference: Any, lengths: list[int]
) -> None:
    prompts = random_prompts(model, lengths)
    slots = [3, 0, 4, 1][: len(prompts)]
    logits = prefill(model, model.new_cache(5, 160), prompts, slots)
    for ours, prompt in zip(logits.split(lengths), prompts, strict=True):
        torch.testing.assert_close(ours, reference_logits(reference, prompt), **TOLERANCE)


@pytest.mark.parametrize("slots", [[1, 2, 3], [4, 0, 2]], ids=["adjoining", "scattered"])
@pytest.mark.parametrize("lengths", [[30, 30, 30], [7, 90, 41]], ids=["equal", "ragged"])
def test_decode_logits_equal_the_whole_text_at_once(
    model: Model, reference: Any, slots: list[int], lengths: list[int]
) -> None:
    num_steps = 6
    texts = random_prompts(model, [n + num_steps for n in lengths], seed=2)
    cache = model.new_cache(5, 128)
    prefill(model, cache, [t[:n] for t, n in zip(texts, lengths, strict=True)], slots)
    expected = [reference_logits(reference, text) for text in texts]
    for step in range(num_steps):
        places = [n + step for n in lengths]
        tokens = [int(text[place]) for text, place in zip(texts, places, strict=True)]
        logits = decode(model, cache, tokens, slots, [place + 1 for place in places])
        for ours, whole, place in zip(logits, expected, places, strict=True):
            torch.testing.assert_close(ours, whole[place], **TOLERANCE)


def test_a_used_slot_leaves_no_trace(model: Model) -> None:
    first, second = random_prompts(model, [100, 20], seed=3)
    used, fresh = model.new_cache(1, 128), model.new_cache(1, 128)
    prefill(model, used, [first], [0])
    for cache in (used, fresh):
        prefill(model, cache, [second], [0])
    ours = decode(model, used, [5], [0], [21])
    assert torch.equal(ours, decode(model, fresh, [5], [0], [21]))


def test_rope_is_exact_at_the_last_positions(model: Model, reference: Any) -> None:
    positions = torch.tensor([0, 1, 2047, 4095])
    rotation = model.decoder.rotation(positions)
    x = torch.ones(4, 1, model.config.text.head_dim)
    cos, sin = reference.model.language_model.rotary_emb(x, positions[None])
    half = x.shape[-1] // 2
    expected = cos[0] + sin[0] * torch.cat([-torch.ones(half), torch.ones(half)])
    torch.testing.assert_close(rotation.apply(x)[:, 0], expected, rtol=0, atol=1e-6)
