"""CUDA graphs: work that was enqueued once, replayed without Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class Capturer:
    """Captures graphs that share one pool of memory, since no two of them run at once."""

    def __init__(self, device: torch.device, stream: torch.cuda.Stream | None = None) -> None:
        """`stream`: where graphs are captured; None = one for that alone."""
        self._device = device
        self._pool: Any = None
        self._stream = stream

    def capture(self, work: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """Run `work` once, which loads and compiles what a capture may not, then capture it.

        It must read and write static buffers only; what it allocates is its own until its next
        replay or that of any other graph.
        """
        side, current = self._side(), torch.cuda.current_stream(self._device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            work()
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(
            graph, pool=self._pool, stream=side, capture_error_mode="thread_local"
        ):
            work()
        return graph

    def _side(self) -> torch.cuda.Stream:
        """Where to capture: a graph's kernels keep the priority of that stream."""
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        return self._stream
