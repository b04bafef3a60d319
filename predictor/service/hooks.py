"""KServe's three hooks of a model, one after the other, with their times in KServe's own metrics.

KServe's own call asks each time how each hook is to be called, and counts a hook's time before it
calls the next. Here the times count behind the answer: for a request that comes alone all that is
code which the processor has not run for a while.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

from kserve import Model
from kserve.metrics import POST_HIST_TIME, PRE_HIST_TIME, PREDICT_HIST_TIME, get_labels

_HISTOGRAMS: Final = (PRE_HIST_TIME, PREDICT_HIST_TIME, POST_HIST_TIME)


class Hooks:
    """Of one model, whose hooks are coroutines."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._histograms = [h.labels(**get_labels(model.name)) for h in _HISTOGRAMS]

    async def call(self, body: Any, headers: dict[str, str] | None) -> Any:
        """What the last hook gives."""
        model, moments_s = self._model, [time.monotonic()]
        try:
            prepared = await model.preprocess(body, headers)
            moments_s.append(time.monotonic())
            answered = await model.predict(prepared, headers)
            moments_s.append(time.monotonic())
            return await model.postprocess(answered, headers)
        finally:
            moments_s.append(time.monotonic())
            asyncio.get_running_loop().call_soon(self._count, moments_s)

    def _count(self, moments_s: Sequence[float]) -> None:
        """When the first hook began, and when each that was called ended."""
        for histogram, (began_s, ended_s) in zip(
            self._histograms, pairwise(moments_s), strict=False
        ):
            histogram.observe(ended_s - began_s)
