"""Recordings to pieces of 16 kHz mono speech, off the event loop and within the limits.

All is done in worker processes: decoding, resampling, finding speech, cutting. A recording's pieces
come as they are found, and no further than its credit reaches: what waits in memory is bounded by
that, however long the recording is.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from predictor.audio.as_sent import as_sent
from predictor.audio.bounds import check_sample_rate, too_long
from predictor.audio.file_part import file_part
from predictor.audio.job import Job
from predictor.audio.limits import AudioLimits, AudioOptions, CutOptions
from predictor.audio.pcm import Encoding, PcmLayout, check_pcm, raw_container, raw_layout
from predictor.audio.pool import DecoderPool, PoolObserver
from predictor.audio.sniff import Container, by_magic
from predictor.audio.source import Credit, Source, container_of, truncated
from predictor.audio.stated import stated_duration_s
from predictor.audio.wav import plain_wav
from predictor.errors import InvalidInput, Overloaded, PayloadTooLarge
from predictor.shared_samples import as_float
from predictor.types import SAMPLE_RATE_HZ, AudioEnd, AudioPiece, Samples

__all__ = ["AudioDecoder", "AudioLimits", "AudioOptions", "CutOptions", "Source"]

_WAVEFORM_ENCODINGS: Final[dict[str, Encoding]] = {
    "int16": "s16le",
    "int32": "s32le",
    "float32": "f32le",
    "float64": "f64le",
}
_CHUNK_S: Final = 30.0  # of each channel, granted at a time to a long recording
_NO_BOUND_S: Final = 1e9


class AudioDecoder:
    """Decodes recordings in worker processes; one per server, used from its event loop."""

    def __init__(
        self,
        limits: AudioLimits,
        *,
        num_workers: int,
        options: AudioOptions,
        cuts: CutOptions | None = None,
        num_long: int = 4,
        window_s: float = 240.0,
        observer: PoolObserver | None = None,
    ) -> None:
        """`window_s`: no recording has more than this in memory; longer ones are decoded as their
        pieces are transcribed, up to `num_long` at a time."""
        self._limits = limits
        self._options = options
        self._cuts = cuts or CutOptions()
        self.window_s = window_s
        self._pool = DecoderPool(num_workers, num_long, observer)
        self._pending_bytes = 0

    def start(self) -> None:
        """Start the worker processes and wait for them (below a second)."""
        self._pool.start()

    def close(self) -> None:
        """End the workers; what is still being decoded fails with NotReady."""
        self._pool.close()

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers."""
        return self._pool.pids

    @property
    def max_bytes(self) -> int:
        """Of one recording as it was sent."""
        return self._limits.max_bytes

    @property
    def options(self) -> AudioOptions:
        """What is done to recordings that ask for nothing else."""
        return self._options

    @property
    def cuts(self) -> CutOptions:
        """How recordings are cut that ask for nothing else."""
        return self._cuts

    def source(
        self,
        data: bytes | memoryview,
        *,
        content_type: str | None = None,
        field: str = "audio",
        options: AudioOptions | None = None,
        cuts: CutOptions | None = None,
    ) -> Source:
        """A recording in any supported format, looked at only: constant time.

        `content_type` matters for raw PCM only (`audio/pcm; rate=8000; encoding=s16le`); all other
        formats are told by their first bytes. Raises AudioError, AudioTooLong, PayloadTooLarge,
        InvalidInput.
        """
        view = memoryview(data).cast("B")
        self._check_size(len(view), field)
        layout = raw_layout(content_type, field)
        container: Container | None = None
        notes: tuple[str, ...] = ()
        if layout is not None and (found := by_magic(view)) is not None:
            notes = (f"sent as {str(content_type)[:60]}, but it is {found}",)
            layout = None
        if layout is None:
            container = raw_container(content_type) if not notes else None
            if container is None:
                container, begin = container_of(view, field)
                view = view[begin:]
        parts = [(layout, view)] if layout is not None else None
        if container == "wav":
            parts = plain_wav(view)
        if parts is not None:
            each_s = [check_pcm(len(data), layout, self._limits, field) for layout, data in parts]
            stated_s, num_channels = sum(each_s), parts[0][0].num_channels
        else:
            assert container is not None
            stated_s, num_channels = stated_duration_s(view, container)
        source = self._source(view, container, layout, stated_s, num_channels, options, cuts, field)
        return replace(source, notes=notes) if notes else source

    def waveform_source(
        self,
        array: NDArray[Any],
        sample_rate_hz: int,
        *,
        field: str = "waveform",
        options: AudioOptions | None = None,
        cuts: CutOptions | None = None,
    ) -> Source:
        """Samples [n] of one channel at 8 to 192 kHz, looked at only.

        float32 and float64 are taken as they are, int16 and int32 scaled by their full range.
        Raises AudioTooLong, PayloadTooLarge, InvalidInput.
        """
        if array.ndim != 1:
            raise InvalidInput(
                f"{field}: {array.ndim} dimensions, expected [samples] of one channel",
                field=field,
                value=list(array.shape),
                limit=1,
            )
        encoding = _WAVEFORM_ENCODINGS.get(array.dtype.name)
        if encoding is None:
            choices = ", ".join(_WAVEFORM_ENCODINGS)
            raise InvalidInput(
                f"{field}: datatype {array.dtype.name} is not one of {choices}",
                field=field,
                value=array.dtype.name,
                limit=choices,
            )
        check_sample_rate(sample_rate_hz, self._limits, field)
        self._check_size(array.nbytes, field)
        duration_s = len(array) / sample_rate_hz
        if duration_s > self._limits.max_duration_s:
            raise too_long(self._limits, field, duration_s)
        layout = PcmLayout(sample_rate_hz, 1, encoding)
        data = memoryview(np.ascontiguousarray(array).data).cast("B") if len(array) else b""
        return self._source(data, None, layout, duration_s, 1, options, cuts, field)

    async def pieces(self, source: Source, credit: Credit) -> AsyncGenerator[AudioPiece | AudioEnd]:
        """The pieces of `source` as they are found, and at last what is known of the whole.

        `credit` already holds `source.first_s`; when all has ended it holds the pieces' seconds,
        which are released by whoever is done with them. Raises AudioError, AudioTooLong,
        InvalidInput, Overloaded, NotReady, InternalError.
        """
        whole = as_sent(source) if source.cuts.vad == "off" else None
        if whole is not None:  # all of it is one piece, and lies here already
            duration_s = len(whole) / SAMPLE_RATE_HZ
            credit.release(source.first_s - duration_s)
            yield AudioPiece(whole, 0.0, duration_s)
            yield AudioEnd(duration_s, source.notes + truncated(source, duration_s))
            return
        granted_s, dropped_s = source.first_s, 0.0
        continuing: set[int | None] = set()  # channels whose last piece ended in speech
        with self._admitted(source.data):
            async with self._pool.decode(
                self._job(source, granted_s), source.data, is_long=source.is_long
            ) as decoding:
                while True:
                    message, samples = await decoding.next()
                    if samples is not None:
                        start_s = message.start / SAMPLE_RATE_HZ
                        end_s = start_s + len(samples) / SAMPLE_RATE_HZ
                        overlap_s = message.overlap / SAMPLE_RATE_HZ
                        channel, goes_on = message.channel, message.channel in continuing
                        continuing ^= {channel} if goes_on != message.continues else set()
                        yield AudioPiece(
                            samples, start_s, end_s, channel, overlap_s, message.continues, goes_on
                        )
                        continue
                    credit.release(max(0.0, message.dropped_s - dropped_s))
                    dropped_s = max(dropped_s, message.dropped_s)
                    if message.kind == "end":
                        credit.release(granted_s - message.decoded_s)
                        yield AudioEnd(
                            message.duration_s,
                            source.notes + message.notes + truncated(source, message.duration_s),
                            message.speech_probability,
                            message.busy_s,
                        )
                        return
                    chunk_s = min(_CHUNK_S * max(1, message.num_channels), self.window_s / 4)
                    wanted_s = message.decoded_s + chunk_s
                    # Where it begins again it keeps nothing, and can wait for room like others.
                    kept_s = message.waiting_s if decoding.is_in_its_lane() else -1.0
                    await credit.grow(wanted_s - granted_s, kept_s)
                    granted_s = wanted_s
                    decoding.grant(granted_s)

    async def decode(
        self,
        data: bytes | memoryview,
        *,
        content_type: str | None = None,
        field: str = "audio",
        options: AudioOptions | None = None,
    ) -> Samples:
        """A whole recording as samples [num_samples], 16 kHz mono within [-1, 1], nothing cut out.

        All of it lies in memory: for recordings whose length the caller bounds. Raises what
        `source` and `pieces` raise.
        """
        source = self.source(data, content_type=content_type, field=field, options=options)
        return await self._whole(source)

    async def from_waveform(
        self, array: NDArray[Any], sample_rate_hz: int, *, field: str = "waveform"
    ) -> Samples:
        """Samples [n] of one channel at any rate to [num_samples] at 16 kHz within [-1, 1]."""
        return await self._whole(self.waveform_source(array, sample_rate_hz, field=field))

    async def _whole(self, source: Source) -> Samples:
        cuts = CutOptions(segment_s=self._limits.max_duration_s + 1, vad="off")
        job = Job(
            source.container, source.layout, self._limits, source.options, cuts, _NO_BOUND_S,
            source.field, is_long=True,
        )  # fmt: skip
        parts = [np.zeros(0, np.float32)]
        with self._admitted(source.data):
            async with self._pool.decode(job, source.data, is_long=source.is_long) as decoding:
                while True:
                    _, samples = await decoding.next()
                    if samples is None:
                        return np.concatenate(parts)
                    parts.append(as_float(samples))

    def _source(
        self,
        data: bytes | memoryview,
        container: Container | None,
        layout: PcmLayout | None,
        stated_s: float | None,
        num_channels: int,
        options: AudioOptions | None,
        cuts: CutOptions | None,
        field: str,
    ) -> Source:
        options = options or self._options
        heard = max(1, num_channels) if options.channel == "separate" else 1
        all_s = (stated_s or 0.0) * heard
        return Source(
            data,
            container,
            layout,
            options,
            cuts or self._cuts,
            first_s=min(max(all_s, 0.1), self.window_s),
            is_long=all_s > self.window_s,
            field=field,
            stated_s=stated_s,
        )

    def _job(self, source: Source, granted_s: float) -> Job:
        return Job(
            source.container,
            source.layout,
            self._limits,
            source.options,
            source.cuts,
            granted_s,
            source.field,
        )

    def _check_size(self, num_bytes: int, field: str) -> None:
        if num_bytes > self._limits.max_bytes:
            raise PayloadTooLarge(
                f"{field}: {num_bytes} bytes exceed the limit of {self._limits.max_bytes}",
                field=field,
                value=num_bytes,
                limit=self._limits.max_bytes,
            )

    @contextmanager
    def _admitted(self, data: bytes | memoryview) -> Iterator[None]:
        """Bounds what waits and is decoded, in bytes of memory; a single recording is always let
        in."""
        num_bytes = 0 if file_part(data) is not None else len(data)
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
