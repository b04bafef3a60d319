"""CUDA graphs: work that was enqueued once, replayed without Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class Capturer:
    """Captures graphs that share one pool of memory, since no two of them run at once."""

    def __init__(
        self,
        device: torch.device,
        stream: torch.cuda.Stream | None = None,
        *,
        is_first: bool = False,
    ) -> None:
        """`stream`: where graphs are captured; None = one for that alone. `is_first`: their kernels
        go before others that have not started."""
        self._device = device
        self._pool: Any = None
        self._side, self._is_first = stream, is_first

    def capture(self, work: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """Run `work` once, which loads and compiles what a capture may not, then capture it.

        It must read and write static buffers only; what it allocates is its own until its next
        replay or that of any other graph.
        """
        if self._side is None:  # a graph's kernels keep the priority of where they were captured
            priority = -1 if self._is_first else 0
            self._side = torch.cuda.Stream(self._device, priority)  # type: ignore[no-untyped-call]
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        current = torch.cuda.current_stream(self._device)
        self._side.wait_stream(current)
        with torch.cuda.stream(self._side):
            work()
        current.wait_stream(self._side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(
            graph, pool=self._pool, stream=self._side, capture_error_mode="thread_local"
        ):
            work()
        return graph
