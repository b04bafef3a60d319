"""A program: both ends of a decode step by kernels, interpreted on the CPU, against plain calls.

Ends with an error where anything differs. `--whole`: steps with all that is between both ends by
kernels too, in more precisions.
"""

from __future__ import annotations

# isort: off
import tests.model.interpreted  # noqa: F401  before Triton is imported
# isort: on

import sys
from dataclasses import replace
from pathlib import Path

import torch

from predictor.model.attention import FP8
from predictor.model.checkpoint.weights import load_model
from predictor.model.cuda.decoder import PLAIN
from predictor.model.cuda.kernels import step as kernels
from predictor.model.cuda.step import ends_difference
from predictor.model.decoder import Decoder
from tests.engine.decode_steps import Case, ends_differ, random_state, steps_of

TINY = Path(__file__).parents[2] / "predictor" / "checkpoints" / "tiny"
CPU = torch.device("cpu")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# At the start, in further pages, at a page's end, and at the end of the slot.
POSITIONS = (0, 159, 63, 70, 158, 0)
IS_WHOLE = sys.argv[1:] == ["--whole"]


def check_random(dtype: torch.dtype) -> None:
    for num_rows, page_tokens, vocab_size, width in (
        (1, 64, 300, 128), (2, 16, 300, 100), (7, 64, 257, 8192), (40, 16, 300, 4),
    ):  # fmt: skip
        embedding = torch.randn(vocab_size, 96).to(dtype)
        found = ends_differ(num_rows, page_tokens, embedding, width=width)
        if found:
            raise SystemExit(f"{dtype}, {num_rows} rows, pages of {page_tokens}: {found}")


def check_no_token_is_read_beyond_the_embedding() -> None:
    """A row without a number may leave one that the vocabulary lacks."""
    embedding = torch.randn(9, 32)
    state = random_state(2, 16, 4, 9, CPU)
    state.tokens[:] = torch.tensor([9, 8191, 3])
    x = kernels.enter(state, torch.tensor([1, 0, 2]), embedding)[0]
    if not torch.equal(x, embedding[[8, 8, 3]]):
        raise SystemExit("a token beyond the vocabulary is not its last")


def check_steps(decoder: Decoder, kv_dtype: torch.dtype) -> None:
    """Whole steps of a loop, with and without the kernels."""
    dtype = decoder.norm.weight.dtype
    ways = [(PLAIN, (3, 5, 0, 5, 1), False)]
    if kv_dtype == FP8 and dtype == torch.float16:
        ways += [(replace(PLAIN, small_batch=True), (1,), False)]
    if IS_WHOLE and dtype != torch.bfloat16:  # which the interpreter multiplies as integers
        ways += [
            (replace(PLAIN, small_batch=True), (4, 5), False),
            (replace(PLAIN, attention="split", shared=True), (3, 1, 4), True),
        ]
    for without, rows, shares in ways:
        fusion = replace(without, head=True)
        case = Case(kv_dtype, rows, POSITIONS, num_steps=2, shares=shares)
        ours = steps_of(decoder, replace(fusion, ends=True), case)
        plain = steps_of(decoder, fusion, case)
        if not all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True)):
            raise SystemExit(f"{dtype}, cache {kv_dtype}, rows {rows}: {ours[0]}, not {plain[0]}")
        if not ours[1].unique().numel() > 1:
            raise SystemExit(f"all tokens are {ours[1][0]}: nothing was compared")


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    check_no_token_is_read_beyond_the_embedding()
    for dtype in DTYPES:
        check_random(dtype)
        decoder = load_model(TINY, device=CPU, dtype=dtype).decoder
        difference = ends_difference(decoder)
        if not difference <= 1e-5:  # log-probabilities are float32 in all of them
            raise SystemExit(f"{dtype}: relative difference {difference:.1e}")
        for kv_dtype in (dtype,) if dtype == torch.float32 else (dtype, FP8):
            check_steps(decoder, kv_dtype)


if __name__ == "__main__":
    main()
