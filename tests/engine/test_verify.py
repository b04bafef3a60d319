"""How much of a draft holds, as the device decides it and as the host reads it: the same."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from predictor.engine.cuda.verify import Checks, go_on, settle
from predictor.engine.options import EngineOptions
from predictor.engine.prompts import PromptLayout, verified
from predictor.engine.sequence import Limits, Sequence
from predictor.model.cuda.decoder import plain_choose
from predictor.types import EngineRequest

VOCAB, SCRATCH = 6, 9
LIMITS = Limits(max_model_len=400, vocab_size=VOCAB, eos_token_ids=frozenset({5}))


def sequence(slot: int, forced: list[int], draft: list[int]) -> Sequence:
    samples = np.zeros(16_000, np.float32)
    request = EngineRequest(
        str(slot), samples, (1,), (2, 3), 40,
        forced=tuple(forced), draft=tuple(draft), scores_forced=True,
    )  # fmt: skip
    made = Sequence(request, LIMITS, EngineOptions())
    made.slot, made.pages = slot, [7 * slot]
    return made


def checks_of(layout: PromptLayout, some: list[Sequence], num_rows: int, size: int) -> Checks:
    rows = np.full((4, num_rows), -(2**40), dtype=np.int64)  # of what was there before
    Checks.fill(rows, layout, size, layout.num_tokens - 1)
    wanted, given_, is_forced, owner = torch.from_numpy(rows).unbind()
    slots = [s.slot for s in some] + [SCRATCH] * (size - len(some))
    return Checks(wanted, given_, is_forced, owner, torch.tensor(slots))


TOKENS = st.lists(st.integers(0, VOCAB - 1), max_size=4)


@settings(deadline=None, max_examples=150)
@given(
    shapes=st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=6),
    seed=st.integers(0, 10_000),
    num_unused=st.integers(0, 5),
)
def test_the_device_goes_on_where_the_host_reads_that_it_does(
    shapes: list[tuple[list[int], list[int]]], seed: int, num_unused: int
) -> None:
    some = [sequence(slot, *shape) for slot, shape in enumerate(shapes)]
    layout = PromptLayout.of(some, 64)
    num_rows = len(layout.wanted) + num_unused
    checks = checks_of(layout, some, num_rows, len(some) + num_unused)
    logits = torch.randn(num_rows, VOCAB, generator=torch.Generator().manual_seed(seed))
    # Often the likeliest token is the one that is known to follow.
    for row, token in enumerate(layout.given.tolist()):
        if token >= 0 and (seed + row) % 3:
            logits[row, token] += 9.0
    state = (torch.zeros(SCRATCH + 1, dtype=torch.long), torch.zeros(SCRATCH + 1, dtype=torch.long))
    chosen = plain_choose(logits)
    positions = torch.from_numpy(layout.rows[1])
    results = settle(logits, chosen, positions, checks, state, SCRATCH)
    tokens, logprobs, given_logprobs = results[: len(layout.wanted)].T.tolist()
    ids = [int(token) for token in tokens]
    new, new_logprobs, found = verified(layout, ids, logprobs, given_logprobs)
    expected = logits.log_softmax(-1)
    row = 0
    for each, ids, values, (forced, num_accepted) in zip(
        some, new, new_logprobs, found, strict=True
    ):
        num_forced = len(each.request.forced)
        assert ids[:-1] == list(each.draft[:num_accepted])
        assert ids[-1:] != list(each.draft[num_accepted : num_accepted + 1])
        np.testing.assert_allclose(
            forced,
            [float(expected[row + i, t]) for i, t in enumerate(each.request.forced)],
            atol=1e-4,
        )
        likeliest = expected[row + num_forced : row + num_forced + len(ids)].amax(-1)
        np.testing.assert_allclose(values, likeliest.numpy(), atol=1e-4)
        assert int(state[0][each.slot]) == ids[-1]
        assert int(state[1][each.slot]) == each.num_prompt_tokens + num_forced + num_accepted
        row += num_forced + len(each.draft) + 1
    assert int(state[1][SCRATCH]) == 0


def test_where_nothing_is_known_the_short_way_leads_to_the_same() -> None:
    some = [sequence(slot, [], []) for slot in (3, 0, 5)]
    layout = PromptLayout.of(some, 64)
    checks = checks_of(layout, some, 5, 5)
    logits = torch.randn(5, VOCAB, generator=torch.Generator().manual_seed(1))
    positions, chosen = torch.from_numpy(layout.rows[1]), plain_choose(logits)
    states, results = [], []
    for way in (settle, go_on):
        state = (torch.full((SCRATCH + 1,), 4), torch.full((SCRATCH + 1,), 4))
        results.append(way(logits, chosen, positions, checks, state, SCRATCH)[:3, :2])
        states.append([state[0][:SCRATCH].tolist(), state[1].tolist()])
    assert states[0] == states[1]
    assert torch.equal(*results)
