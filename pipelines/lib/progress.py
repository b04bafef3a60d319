"""A bar on standard error for runs over many recordings."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tqdm import tqdm

from pipelines.lib.journal import Record
from pipelines.lib.manifest import Clip


class Progress:
    """Clips done, clips a second, time left, times real time."""

    def __init__(self, clips: Sequence[Clip], num_done: int, *, shown: bool) -> None:
        self._started = time.monotonic()
        self._audio_s = 0.0
        self._num_failed = 0
        self._bar = tqdm(
            total=len(clips), initial=num_done, unit="clip", disable=not shown, smoothing=0.1
        )

    def add(self, record: Record) -> None:
        """Count a finished clip."""
        self._audio_s += record.duration_s or 0.0
        self._num_failed += record.error is not None
        speed = self._audio_s / max(time.monotonic() - self._started, 1e-9)
        self._bar.set_postfix({"RTFx": f"{speed:.1f}", "failed": self._num_failed}, refresh=False)
        self._bar.update()

    def close(self) -> None:
        """Leave the finished bar standing."""
        self._bar.close()
