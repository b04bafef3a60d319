"""Files to blocks of samples, for the decoder process only: PyAV, and libsndfile for the rest.

PyAV reads from the open file alone, with the demuxer that the first bytes named: no probing, no
playlists, no network, no further files, and no decoder but the audio ones listed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, NoReturn

import av
import av.error
import av.stream
import numpy as np
import soundfile
from numpy.typing import NDArray

from predictor.audio.file_part import FilePart
from predictor.audio.ogg import ogg_links
from predictor.audio.sniff import Container
from predictor.errors import AudioError, InvalidInput

_DEMUXERS: Final[dict[Container, str]] = {
    "flac": "flac",
    "ogg": "ogg",
    "mp3": "mp3",
    "aac": "aac",
    "mp4": "mov",
    "webm": "matroska",
    "amr": "amr",
    "caf": "caf",
    "latm": "loas",
    "ac3": "ac3",
    "asf": "asf",
    "avi": "avi",
    "flv": "flv",
    "mpegts": "mpegts",
    "tta": "tta",
    "wavpack": "wv",
    "g722": "g722",
    "gsm": "gsm",
}
_DECODERS: Final = (
    "aac,aac_fixed,alac,amrnb,amrwb,flac,mp1float,mp2float,mp3float,mp3,mp2,opus,vorbis,"
    "pcm_s16le,pcm_s16be,pcm_s24le,pcm_s24be,pcm_s32le,pcm_s32be,pcm_f32le,pcm_f32be,pcm_f64le,"
    "pcm_u8,pcm_s8,pcm_alaw,pcm_mulaw,ac3,eac3,speex,libspeex,aac_latm,wmav1,wmav2,wmapro,"
    "wmalossless,wmavoice,tta,wavpack,g722,adpcm_g722,gsm,gsm_ms,adpcm_ms,adpcm_ima_wav,adpcm_swf,"
    "nellymoser"
)
_CONTAINER_OPTIONS: Final = {
    "codec_whitelist": _DECODERS,
    "format_whitelist": ",".join((*_DEMUXERS.values(), "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")),
    "protocol_whitelist": "none",
    "max_streams": "32",
}
# Of a block. Finding speech costs a third more in blocks of 1.4 s, and two thirds in 0.7 s.
BLOCK_S: Final = 5.0
_BLOCK_VALUES: Final = 1 << 19  # and no more than that, however many channels
_SAMPLE_TYPES: Final = {"u8": "u1", "s16": "i2", "s32": "i4", "flt": "f4", "dbl": "f8"}
_JITTER_S: Final = 0.05
# Containers whose time stamps say where a track begins and where it has gaps.
_TIMED: Final = ("mp4", "webm", "mpegts", "asf", "flv", "avi")
_FROM_ZERO: Final = ("mp4", "webm")  # others count from some time that means nothing
_MAX_BAD_AT_FIRST: Final = 2000  # packets; a minute of them
_MAX_BAD_SHARE: Final = 0.5  # of the packets; broken ones are skipped, as every player does


@dataclass(frozen=True, slots=True)
class Block:
    """Samples that follow each other, of every channel."""

    values: NDArray[np.float32]  # [n, channels]
    sample_rate_hz: int
    at_s: float | None = None  # where in the recording it begins, if the container says so


def decode_file(
    file: BinaryIO,
    container: Container,
    track: int | None,
    field: str,
    tick: Callable[[], None] = lambda: None,
) -> Iterator[Block]:
    """The blocks of `file` in order; `tick` is called for each packet, sound or none.

    Raises AudioError and InvalidInput.
    """
    try:
        if container == "ogg":
            for link in ogg_links(file):
                yield from _decode_av(link, container, track, field, tick)
        elif container in _DEMUXERS:
            yield from _decode_av(file, container, track, field, tick)
        else:
            yield from _decode_sndfile(file)
    except (av.error.FFmpegError, soundfile.SoundFileError) as error:
        raise undecodable(field, container, _reason(error)) from error
    except (MemoryError, ValueError, OverflowError) as error:
        raise undecodable(field, container, "its header asks for the impossible") from error


def undecodable(field: str, container: Container, reason: str) -> AudioError:
    """The error for audio that its codec refuses."""
    return AudioError(
        f"{field}: cannot be decoded as {container}: {reason}",
        field=field,
        value=container,
        limit="a complete audio file",
    )


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, av.error.FFmpegError) else str(error)
    return (text or "invalid data").rpartition(": ")[2].strip(" .")[:120]


def _decode_sndfile(file: BinaryIO) -> Iterator[Block]:
    whole = file if isinstance(file, FilePart) else file.fileno()
    with soundfile.SoundFile(whole, closefd=False) as sound:
        step = _block_size(sound.samplerate, sound.channels)
        while len(values := sound.read(step, dtype="float32", always_2d=True)):
            yield Block(values, sound.samplerate)


def _refuse_other_files(url: str, _flags: int, _options: dict[str, str]) -> NoReturn:
    raise PermissionError(f"the audio refers to another file: {url[:100]}")


def _decode_av(
    file: BinaryIO,
    container: Container,
    track: int | None,
    field: str,
    tick: Callable[[], None],
) -> Iterator[Block]:
    with av.open(
        file,
        format=_DEMUXERS[container],
        container_options=_CONTAINER_OPTIONS,
        metadata_errors="replace",
        io_open=_refuse_other_files,
    ) as source:
        stream = _chosen(source, container, track, field)
        stream.codec_context.thread_count = 1
        start_s = None
        if container in _TIMED:
            start_s = 0.0 if container in _FROM_ZERO else (source.start_time or 0) / av.time_base
        yield from _joined(_frames(source, stream, field, container, tick), start_s)


def _chosen(source: Any, container: Container, track: int | None, field: str) -> Any:
    """The audio stream asked for; else the one marked default, else the first."""
    streams = source.streams.audio
    if not streams:
        raise undecodable(field, container, "it has no audio stream")
    if track is not None and track >= len(streams):
        raise InvalidInput(
            f"{field}: track {track} was asked for, the file has {len(streams)} audio tracks",
            field=field,
            value=len(streams),
            limit=track + 1,
        )
    marked = [s for s in streams if s.disposition & av.stream.Disposition.default]
    stream = streams[track] if track is not None else (marked or streams)[0]
    codec = stream.codec_context.name if stream.codec_context else "unknown"
    if codec not in _DECODERS.split(","):
        raise undecodable(field, container, f"its codec is not accepted: {codec}")
    return stream


class _Joiner:
    """Frames of one kind that follow each other, put together as they come: a codec's frame is
    20 ms, too little for numpy to be worth its while."""

    def __init__(self, frame: Any, at_s: float | None) -> None:
        self.kind = _kind(frame)
        self.at_s = at_s
        self.rate_hz, num_channels, sample_type = self.kind
        self.is_planar = sample_type.endswith("p")
        dtype = _SAMPLE_TYPES.get(sample_type.removesuffix("p"))
        if dtype is None:
            raise ValueError(f"samples of type {sample_type}")
        self.room = max(frame.samples, _block_size(self.rate_hz, num_channels))
        shape = (num_channels, self.room) if self.is_planar else (1, self.room * num_channels)
        self._values = np.empty(shape, dtype)
        self._rows = [memoryview(row).cast("B") for row in self._values]
        self._frame_bytes = self._values[0].nbytes // self.room
        self._num_bytes = 0  # of each row

    def add(self, frame: Any) -> None:
        """The next frame, of the same kind; no more of them than there is room for."""
        begin, count = self._num_bytes, frame.samples * self._frame_bytes
        for row, plane in zip(self._rows, frame.planes, strict=False):
            row[begin : begin + count] = memoryview(plane)[:count]
        self.room -= frame.samples
        self._num_bytes = begin + count

    def block(self) -> Block:
        """All of it."""
        values = self._values[:, : self._num_bytes // self._values.itemsize]
        shaped = values.T if self.is_planar else values.reshape(-1, self.kind[1])
        return Block(_to_float(shaped), self.rate_hz, self.at_s)


def _kind(frame: Any) -> tuple[int, int, str]:
    return frame.sample_rate, frame.layout.nb_channels, frame.format.name


def _block_size(rate_hz: int, num_channels: int) -> int:
    """Samples of each channel in a block; at least one."""
    return max(1, min(int(BLOCK_S * rate_hz), _BLOCK_VALUES // max(1, num_channels)))


def _joined(frames: Iterable[Any], start_s: float | None) -> Iterator[Block]:
    """Blocks of many frames, with the time of the first, less `start_s`, where that is known.

    A frame of another kind, or that does not follow on what came before, begins a new block.
    """
    joiner: _Joiner | None = None
    end_s = None
    for frame in frames:
        count = frame.samples
        if not count:
            continue
        at_s = None if start_s is None or frame.time is None else frame.time - start_s
        follows = at_s is None or end_s is None or at_s - end_s < _JITTER_S
        if joiner and (count > joiner.room or not follows or _kind(frame) != joiner.kind):
            yield joiner.block()
            joiner = None
        joiner = joiner or _Joiner(frame, at_s)
        joiner.add(frame)
        end_s = None if at_s is None else at_s + count / frame.sample_rate
    if joiner:
        yield joiner.block()


def _frames(
    source: Any, stream: Any, field: str, container: Container, tick: Callable[[], None]
) -> Iterator[Any]:
    """Decoded frames; packets that are damaged are skipped as long as they are the lesser part."""
    num_packets = num_bad = 0
    for packet in source.demux(stream):
        tick()
        num_packets += 1
        try:
            yield from packet.decode()
        except (av.error.InvalidDataError, av.error.EOFError):
            num_bad += 1
            if num_bad == num_packets >= _MAX_BAD_AT_FIRST:
                break
    if num_bad > num_packets * _MAX_BAD_SHARE:
        raise undecodable(field, container, f"{num_bad} of {num_packets} packets are damaged")


def _to_float(block: NDArray[Any]) -> NDArray[np.float32]:
    """[n, channels] of any sample type as float32; integers scaled to [-1, 1)."""
    if block.dtype == np.uint8:
        return (block.astype(np.float32) - np.float32(128)) / np.float32(128)
    if np.issubdtype(block.dtype, np.integer):
        return block.astype(np.float32) / np.float32(-np.iinfo(block.dtype).min)
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, refused later
        return block.astype(np.float32, copy=False)
