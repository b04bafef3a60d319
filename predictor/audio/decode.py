"""Any recording to 16 kHz mono float32, off the event loop and within the limits.

Plain WAV and raw PCM need no codec: numpy reads them in a thread. All else goes to workers.
Resampling and filters (torch, which releases the interpreter lock) run in threads of the server.
"""

from __future__ import annotations

import asyncio
import importlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from predictor.audio.filters import apply_filters
from predictor.audio.limits import AudioLimits, AudioOptions
from predictor.audio.mono import check_sample_rate, too_long
from predictor.audio.pcm import PcmLayout, decode_pcm, raw_layout
from predictor.audio.pool import DecoderPool
from predictor.audio.resample import resample
from predictor.audio.sniff import FORMATS, sniff
from predictor.audio.wav import plain_wav
from predictor.audio.worker import Job
from predictor.errors import AudioError, InvalidInput, Overloaded, PayloadTooLarge
from predictor.types import SAMPLE_RATE_HZ, Samples

__all__ = ["AudioDecoder", "AudioLimits", "AudioOptions"]

_T = TypeVar("_T")
_WAVEFORM_SCALES: Final = {"int16": 2.0**15, "int32": 2.0**31, "float32": 1.0, "float64": 1.0}


class AudioDecoder:
    """Decodes recordings in worker processes; one per server, used from its event loop."""

    def __init__(self, limits: AudioLimits, *, num_workers: int, options: AudioOptions) -> None:
        self._limits = limits
        self._options = options
        self._pool = DecoderPool(num_workers)
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="audio")
        self._pending_bytes = 0

    def start(self) -> None:
        """Start the worker processes and wait for them (below a second)."""
        self._pool.start()
        # What resampling imports, beside the loading of the model and before it is needed: it
        # brings torch, as nothing else in a server does whose engine has a process of its own.
        threading.Thread(target=importlib.import_module, args=("torchaudio.transforms",)).start()

    def close(self) -> None:
        """End the workers; what is still being decoded fails with NotReady."""
        self._pool.close()
        self._threads.shutdown(wait=True, cancel_futures=True)

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers."""
        return self._pool.pids

    async def decode(
        self,
        data: bytes | memoryview,
        *,
        content_type: str | None = None,
        field: str = "audio",
    ) -> Samples:
        """A recording in any supported format to [num_samples], 16 kHz mono within [-1, 1].

        `content_type` matters for raw PCM only (`audio/pcm; rate=8000; encoding=s16le`); all other
        formats are told by their first bytes. Raises AudioError, AudioTooLong, PayloadTooLarge,
        InvalidInput, Overloaded, NotReady, InternalError.
        """
        view = memoryview(data).cast("B")
        self._check_size(len(view), field)
        layout = raw_layout(content_type, field)
        with self._admitted(len(view)):
            plain = (layout, view) if layout is not None else plain_wav(view)
            if plain is not None:
                return await self._in_thread(self._finish_pcm, *plain, field)
            samples, rate_hz = await self._pool.run(self._job(view, field), view)
            return await self._in_thread(self._finish, samples, rate_hz, field)

    async def from_waveform(
        self, array: NDArray[Any], sample_rate_hz: int, *, field: str = "waveform"
    ) -> Samples:
        """Samples [n] of one channel at 8 to 192 kHz to [num_samples] at 16 kHz within [-1, 1].

        float32 and float64 are taken as they are, int16 and int32 scaled by their full range.
        Raises AudioError, AudioTooLong, PayloadTooLarge, InvalidInput, Overloaded.
        """
        if array.ndim != 1:
            raise InvalidInput(
                f"{field}: {array.ndim} dimensions, expected [samples] of one channel",
                field=field,
                value=list(array.shape),
                limit=1,
            )
        scale = _WAVEFORM_SCALES.get(array.dtype.name)
        if scale is None:
            choices = ", ".join(_WAVEFORM_SCALES)
            raise InvalidInput(
                f"{field}: datatype {array.dtype.name} is not one of {choices}",
                field=field,
                value=array.dtype.name,
                limit=choices,
            )
        check_sample_rate(sample_rate_hz, self._limits, field)
        self._check_size(array.nbytes, field)
        if len(array) > self._limits.max_duration_s * sample_rate_hz:
            raise too_long(self._limits, field, len(array) / sample_rate_hz)
        with self._admitted(array.nbytes):
            return await self._in_thread(
                lambda: self._finish(_scaled(array, scale), sample_rate_hz, field)
            )

    def _job(self, view: memoryview, field: str) -> Job:
        container = sniff(view)
        if container is None:
            what = "it is empty" if len(view) == 0 else f"starts with {bytes(view[:8])!r}"
            raise AudioError(
                f"{field}: no known audio format ({what}); accepted: {FORMATS}, "
                "raw PCM by content type",
                field=field,
                value=f"{len(view)} bytes",
                limit=FORMATS,
            )
        return Job(container, self._limits, self._options.channel, field)

    def _finish_pcm(self, layout: PcmLayout, view: memoryview, field: str) -> Samples:
        samples = decode_pcm(view, layout, self._limits, self._options.channel, field)
        return self._finish(samples, layout.sample_rate_hz, field)

    def _finish(self, samples: NDArray[np.float32], rate_hz: int, field: str) -> Samples:
        """Resample, refuse what is not finite, filter."""
        if len(samples) == 0:
            raise AudioError(f"{field}: holds no samples", field=field, value=0, limit=1)
        resampled = resample(samples, rate_hz)
        _check_finite(resampled, field)
        return apply_filters(resampled, self._options)

    async def _in_thread(self, function: Callable[..., _T], *args: Any) -> _T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, function, *args)

    def _check_size(self, num_bytes: int, field: str) -> None:
        if num_bytes > self._limits.max_bytes:
            raise PayloadTooLarge(
                f"{field}: {num_bytes} bytes exceed the limit of {self._limits.max_bytes}",
                field=field,
                value=num_bytes,
                limit=self._limits.max_bytes,
            )

    @contextmanager
    def _admitted(self, num_bytes: int) -> Iterator[None]:
        """Bounds what waits and is decoded, in bytes; a single recording is always let in."""
        pending = self._pending_bytes
        if pending and pending + num_bytes > self._limits.max_pending_bytes:
            raise Overloaded(
                f"{pending} bytes of audio wait to be decoded, "
                f"the limit is {self._limits.max_pending_bytes}"
            )
        self._pending_bytes += num_bytes
        try:
            yield
        finally:
            self._pending_bytes -= num_bytes


def _scaled(array: NDArray[Any], scale: float) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, refused later
        samples = array.astype(np.float32)
    return samples if scale == 1.0 else samples / np.float32(scale)


def _check_finite(samples: Samples, field: str) -> None:
    finite = np.isfinite(samples)
    if not finite.all():
        at_s = float(np.argmin(finite)) / SAMPLE_RATE_HZ
        raise AudioError(
            f"{field}: NaN or infinite sample near {at_s:.2f} s",
            field=field,
            value="NaN or infinity",
            limit="finite numbers",
        )
