"""What the host spends on each token: the whole engine on a runner that takes no time.

    python -m tests.bench.host

Scheduler, bookkeeping, delivery to the event loop and one consumer for each stream, on one core:
what the device must be slower than, or the host is the limit.
"""

from __future__ import annotations

import asyncio
import time
from collections import abc
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from predictor.engine import EngineClient, EngineCore
from predictor.engine.pages import PAGE_TOKENS, PageSize
from predictor.engine.protocol import StepOutput
from predictor.engine.sequence import Batch, Limits
from predictor.types import EngineRequest
from tests.bench.load import Shares, all_at_once, options

NUM_SEQUENCES, NUM_TOKENS = 256, 240


class InstantRunner:
    """Answers at once with `steps` tokens; they never repeat, like most speech."""

    num_slots = NUM_SEQUENCES
    limits = Limits(max_model_len=768, vocab_size=151_936, eos_token_ids=frozenset())
    page_size = PageSize(NUM_SEQUENCES * 768 // PAGE_TOKENS, PAGE_TOKENS)

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._logprobs = [-0.1] * steps

    def in_thread(self) -> AbstractContextManager[object]:
        return nullcontext()

    def prefill(self, sequences: Batch) -> StepOutput:
        return StepOutput([[1] for _ in sequences], [[-0.1] for _ in sequences])

    def decode(self, sequences: Batch) -> StepOutput:
        first = len(sequences[0].tokens)
        tokens = list(range(first, first + self._steps))
        return StepOutput([tokens for _ in sequences], [self._logprobs for _ in sequences])

    def scrub(self, pages: abc.Sequence[int]) -> None:
        raise AssertionError(f"nothing spoilt pages {pages}")

    def let_go(self) -> None:
        pass

    def idle(self) -> bool:
        return False

    def between_steps(self) -> None:
        pass

    def recover(self) -> bool:
        return False


async def measure(steps: int) -> tuple[float, Shares]:
    """Microseconds of wall time for each token of each sequence."""
    shares = Shares()
    settings = options(max_num_seqs=NUM_SEQUENCES, max_prefill_tokens=10**6)
    engine = EngineClient([EngineCore(InstantRunner(steps), settings, shares.add)])
    silence = np.zeros(16_000 * 15, dtype=np.float32)
    requests = [
        EngineRequest(str(i), silence, (1, 2), (3,), NUM_TOKENS) for i in range(NUM_SEQUENCES)
    ]
    engine.start()
    try:
        await all_at_once(engine, requests[:8])
        wall_s = await all_at_once(engine, requests)
    finally:
        engine.stop()
    return 1e6 * wall_s / (NUM_SEQUENCES * NUM_TOKENS), shares


def main() -> None:
    for steps in (1, 2, 4, 8):
        began_s = time.process_time()
        wall_us, shares = asyncio.run(measure(steps))
        cpu_us = 1e6 * (time.process_time() - began_s) / (NUM_SEQUENCES * NUM_TOKENS)
        looks = shares.steps["decode"]
        print(
            f"{steps} steps a look: {wall_us:.2f} us a token ({cpu_us:.2f} of processor time), "
            f"{wall_us * NUM_SEQUENCES / 1000:.2f} ms for each step of {NUM_SEQUENCES}, "
            f"{looks} looks"
        )


if __name__ == "__main__":
    main()
