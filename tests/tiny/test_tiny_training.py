"""The training side of the tiny checkpoints, held to independent implementations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.tiny import model as tiny
from tests.tiny.batches import Bucket, Planner, audio_tokens
from tests.tiny.ctc import ctc_loss
from tests.tiny.evaluate import edits
from tests.tiny.store import Ragged


def test_ctc_equals_torch() -> None:
    torch.manual_seed(0)
    logits = torch.randn(7, 30, 20, requires_grad=True)
    targets = torch.randint(0, 19, (7, 9))
    targets[0, :4] = 3  # repeats need a blank between them
    lengths = torch.tensor([30, 20, 25, 30, 12, 7, 30])
    target_lengths = torch.tensor([9, 5, 9, 0, 3, 7, 4])
    ours = ctc_loss(logits, targets, lengths, target_lengths, 19)
    (gradient,) = torch.autograd.grad(ours.sum(), logits)
    theirs = torch.nn.functional.ctc_loss(
        logits.log_softmax(-1).transpose(0, 1), targets, lengths, target_lengths,
        blank=19, reduction="none", zero_infinity=True,
    )  # fmt: skip
    (expected,) = torch.autograd.grad(theirs.sum(), logits)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("frames", [50, 125, 300, 799, 800, 1234, 1600])
def test_forward_equals_transformers(frames: int) -> None:
    from tests.tiny.tokenizer import ADDED_TOKENS, VOCAB_SIZE

    torch.manual_seed(frames)
    model = tiny.build(tiny.SHAPES["nano"], ADDED_TOKENS, VOCAB_SIZE).eval()
    padded = -(-frames // 100) * 100
    mel = torch.randn(1, 128, padded)
    mask = (torch.arange(padded) < frames).long()[None]
    num_tokens = tiny.num_audio_tokens(torch.tensor([frames]))
    ids = torch.full((1, int(num_tokens) + 12), ADDED_TOKENS["<|audio_pad|>"])
    ids[0, :5] = torch.arange(5)
    ids[0, -7:] = torch.arange(7) + 20
    with torch.inference_mode():
        expected = model(input_ids=ids, input_features=mel, input_features_mask=mask).logits
        if padded > 800:
            mel = torch.nn.functional.pad(mel, (0, -padded % 800))
        ours = tiny.decode(model, ids, tiny.encode(model, mel, num_tokens))
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_audio_tokens_agree_between_plan_and_model() -> None:
    samples = np.arange(8000, 400_000, 777)
    by_model = tiny.num_audio_tokens(torch.from_numpy(samples // 160))
    assert np.array_equal(audio_tokens(samples), by_model.numpy())


def test_ragged_gives_back_its_rows() -> None:
    ragged = Ragged()
    rows = [[1, 2, 3], [], [4], [5, 6]]
    flat = np.array([x for row in rows for x in row])
    offsets = np.cumsum([0, *(len(row) for row in rows)])
    ragged.extend(flat, offsets)
    ragged.extend(flat, offsets)
    assert ragged.row(4).tolist() == [1, 2, 3]
    picked = np.array([3, 1, 4])
    assert ragged.gather(picked, ragged.lengths(picked)).tolist() == [5, 6, 1, 2, 3]


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("a b c", "a b c", (0, 0)),
        ("a b c", "a c", (1, 0)),
        ("a", "a x y", (2, 2)),
        ("", "x", (1, 1)),
    ],
)
def test_edits(reference: str, hypothesis: str, expected: tuple[int, int]) -> None:
    assert edits(reference.split(), hypothesis.split()) == expected


def test_plan_holds_prompt_audio_and_text(speech_block: object) -> None:
    """Every row of a plan reads: prompt, audio placeholders, language, text, end."""
    from tests.tiny.store import Store
    from tests.tiny.tokenizer import ADDED_TOKENS

    class Characters:
        def encode(self, text: str) -> list[int]:
            return [ord(c) for c in text]

    store = Store(torch.device("cpu"), 40_000_000)
    store.add(speech_block)
    planner = Planner(store, Characters(), ADDED_TOKENS, seed=3)
    for bucket in (Bucket("a", 24, 8, 3, 400), Bucket("b", 12, 32, 12, 900, context=0)):
        plan = planner.plan(bucket)
        for row, count in zip(plan.ids, plan.num_ids, strict=True):
            read = row[:count].tolist()
            if not read:
                continue
            assert read[0] == ADDED_TOKENS["<|im_start|>"]
            assert read[-1] == ADDED_TOKENS["<|im_end|>"]
            assert read.count(ADDED_TOKENS["<asr_text>"]) == 1
        placeholders = (plan.ids == ADDED_TOKENS["<|audio_pad|>"]).sum(1)
        assert np.array_equal(placeholders, audio_tokens(plan.num_samples))
