"""The only part of the engine that touches the device: waveforms and tokens in, tokens out.

Each step builds its index tensors on the host, sends them in one go and looks at the device once,
when the chosen tokens come back.
"""

from __future__ import annotations

from collections import abc
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

from predictor.engine.pages import PAGE_TOKENS, PageSize
from predictor.engine.prompts import PromptLayout, prefilled, verified
from predictor.engine.protocol import StepOutput
from predictor.engine.sequence import Batch, Limits
from predictor.model.attention import CacheView, KvCache, Packing, Prefix, to_device
from predictor.model.mel import LogMel
from predictor.model.model import Model

CPU_AHEAD = 256  # tokens; memory that is not written to costs nothing there
ROWS_AT_A_TIME = 128  # of logits, which are wide


_Runner = TypeVar("_Runner")
_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")


def inferring(
    step: Callable[Concatenate[_Runner, _Given], _Result],
) -> Callable[Concatenate[_Runner, _Given], _Result]:
    """A method that runs in inference mode. The engine's thread is in it already (`in_thread`): to
    enter it in each step once more is a part of what a request that comes alone waits for."""

    @wraps(step)
    def run(runner: _Runner, /, *args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
        if torch.is_inference_mode_enabled():
            return step(runner, *args, **kwargs)
        with torch.inference_mode():
            return step(runner, *args, **kwargs)

    return run


class TorchRunner:
    """Plain PyTorch on CPU or CUDA."""

    def __init__(
        self,
        model: Model,
        *,
        num_slots: int,
        max_model_len: int,
        kv_dtype: torch.dtype | None = None,
        page_tokens: int = PAGE_TOKENS,
        num_pages: int | None = None,
    ) -> None:
        """`kv_dtype`: what the cache holds; None = what activations are. `num_pages` of
        `page_tokens` tokens: None = as many as the sequences of all slots can fill."""
        self._model = model
        self._device = model.device
        self._log_mel = LogMel(model.config.audio.num_mel_bins, device=model.device)
        self._num_slots = num_slots
        if num_pages is None:
            num_pages = num_slots * -(-max_model_len // page_tokens)
        self._page_size = PageSize(num_pages, page_tokens, self._num_ahead())
        self._cache = model.new_cache(num_pages + self._num_scratch, page_tokens, kv_dtype)
        self._limits = Limits(
            max_model_len=max_model_len,
            vocab_size=model.config.text.vocab_size,
            eos_token_ids=frozenset(model.config.eos_token_ids),
            window_chunks=model.config.audio.window_chunks,
        )

    _num_scratch = 0  # pages of the runner's own, behind those of sequences

    def _num_ahead(self) -> int:
        """Tokens that the device may be ahead of what the host knows. On a CPU more, so that most
        answers fit in pages taken at once: those adjoin, and are read where they lie."""
        return CPU_AHEAD if self._device.type == "cpu" else 1

    @property
    def num_slots(self) -> int:
        return self._num_slots

    @property
    def page_size(self) -> PageSize:
        return self._page_size

    @property
    def cache(self) -> KvCache:
        """Keys and values of all pages."""
        return self._cache

    @property
    def limits(self) -> Limits:
        return self._limits

    def in_thread(self) -> AbstractContextManager[object]:
        """What the engine's thread is in, from its start to its end."""
        return torch.inference_mode()

    @inferring
    def prefill(self, sequences: Batch) -> StepOutput:
        """Encode audio and prompt of each sequence into its slot; its first token."""
        audio, loudest = self._encode(sequences)  # [sum of audio tokens, hidden]
        layout = PromptLayout.of(sequences, self._cache.page_tokens)
        tokens, positions, places = self._to_device(layout.rows).unbind()  # [T] each
        x = self._model.decoder.embedding(tokens)
        x.index_copy_(0, self._to_device(layout.audio_rows), audio)
        packing = Packing.of(layout.lengths, device=self._device, dtype=self._model.dtype)
        prefix = self._prefix(sequences, layout)
        hidden = self._model.decoder.prefill(x, positions, places, packing, self._cache, prefix)
        hidden = hidden.index_select(0, self._to_device(layout.wanted))
        chosen = self._choose(hidden, self._to_device(layout.given)).tolist()
        ids, logprobs, found = verified(layout, [int(i) for i in chosen[0]], *chosen[1:])
        results = prefilled(found, loudest)
        return StepOutput(ids, logprobs, prefilled=dict(zip(sequences, results, strict=True)))

    @inferring
    def decode(self, sequences: Batch) -> StepOutput:
        """The next token of each sequence, whose last one is not in the cache yet."""
        lengths = [s.length for s in sequences]
        size = self._cache.page_tokens
        last = [(s.pages[(s.length - 1) // size], (s.length - 1) % size) for s in sequences]
        layout = np.array(
            [
                [s.tokens[-1] for s in sequences],
                [length - 1 for length in lengths],
                [page * size + within for page, within in last],
            ],
            dtype=np.int64,
        )
        tokens, positions, places = self._to_device(layout).unbind()  # [B] each
        view = CacheView.of([s.pages for s in sequences], lengths, size, device=self._device)
        hidden = self._model.decoder.decode(tokens, positions, places, view, self._cache)
        ids, logprobs, _ = self._choose(hidden, tokens).tolist()
        return StepOutput([[int(i)] for i in ids], [[value] for value in logprobs])

    @inferring
    def scrub(self, pages: abc.Sequence[int]) -> None:
        """Zero pages whose contents are not numbers, before others use them."""
        for page in pages:
            self._cache.data[:, :, page].zero_()

    def let_go(self) -> None:
        """Nothing is kept."""

    def idle(self) -> bool:
        """Nothing to prepare."""
        return False

    def between_steps(self) -> None:
        """Nothing to prepare."""

    def recover(self) -> bool:
        """Give back cached memory and try the device; False when it is beyond use."""
        try:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
                torch.cuda.empty_cache()
            return int(torch.ones(2, device=self._device).sum().item()) == 2
        except RuntimeError:
            return False

    def _prefix(self, sequences: Batch, layout: PromptLayout) -> Prefix | None:
        return Prefix.of(
            [s.pages for s in sequences],
            [s.num_cached for s in sequences],
            layout.lengths,
            self._cache.page_tokens,
            device=self._device,
        )

    def _encode(self, sequences: Batch) -> tuple[Tensor, list[list[float]]]:
        """The audio that a step needs, and of each sequence what its stretches heard."""
        parts = [sequence.stretches() for sequence in sequences]
        if not any(parts):
            width = self._model.config.text.hidden_size
            audio = torch.zeros(0, width, device=self._device, dtype=self._model.dtype)
            return audio, [[] for _ in parts]
        mel = self._log_mel.of([stretch for part in parts for stretch in part])
        plan = self._model.encoder.plan(mel.num_frames)
        audio = self._model.encoder(mel.chunks.to(self._model.dtype), plan)
        assert isinstance(audio, Tensor)
        heard = iter(mel.loudest.tolist())
        return audio, [[next(heard) for _ in part] for part in parts]

    def _choose(self, hidden: Tensor, given: Tensor) -> Tensor:
        """On the host, float64 [3, N]: the likeliest token after each hidden state [N, hidden],
        its log-probability, and that of the token `given` [N] (of any where that is below 0)."""
        parts = zip(*(torch.split(x, ROWS_AT_A_TIME) for x in (hidden, given)), strict=True)
        return torch.cat([self._choose_some(*part) for part in parts], dim=1).cpu()

    def _choose_some(self, hidden: Tensor, given: Tensor) -> Tensor:
        logits = self._model.decoder.logits(hidden)
        tokens = logits.argmax(-1)
        rows = torch.stack([tokens, given.clamp(min=0)], dim=1)
        logprobs = logits.log_softmax(-1).gather(-1, rows)  # [N, 2]
        # One copy for all: a token id is exact in float64.
        return torch.cat([tokens[None].double(), logprobs.T.double()])

    def _to_device(self, array: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> Tensor:
        return to_device(array, self._device)
