"""Compressed audio to mono samples, for the worker process only: PyAV, and libsndfile for the rest.

PyAV reads from the open file alone, with the demuxer that the first bytes named: no probing, no
playlists, no network, no further files, and no decoder but the audio ones listed here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any, BinaryIO, Final, NoReturn

import av
import av.error
import numpy as np
import soundfile
from numpy.typing import NDArray

from predictor.audio.mono import MonoWriter
from predictor.audio.sniff import Container
from predictor.errors import AudioError

_DEMUXERS: Final[dict[Container, str]] = {
    "flac": "flac",
    "ogg": "ogg",
    "mp3": "mp3",
    "aac": "aac",
    "mp4": "mov",
    "webm": "matroska",
    "amr": "amr",
}
_DECODERS: Final = (
    "aac,aac_fixed,alac,amrnb,amrwb,flac,mp1float,mp2float,mp3float,mp3,mp2,opus,vorbis,"
    "pcm_s16le,pcm_s16be,pcm_s24le,pcm_s24be,pcm_s32le,pcm_s32be,pcm_f32le,pcm_f32be,pcm_f64le,"
    "pcm_u8,pcm_s8,pcm_alaw,pcm_mulaw,ac3,eac3,speex"
)
_CONTAINER_OPTIONS: Final = {
    "codec_whitelist": _DECODERS,
    "format_whitelist": ",".join((*_DEMUXERS.values(), "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")),
    "protocol_whitelist": "none",
    "max_streams": "32",
}
_BLOCK_SAMPLES: Final = 65_536
_MAX_BAD_SHARE: Final = 0.5  # of the packets; broken ones are skipped, as every player does


def decode_file(file: BinaryIO, container: Container, writer: MonoWriter, field: str) -> None:
    """Decode `file` into `writer`. Raises AudioError, AudioTooLong or InvalidInput."""
    try:
        if container in _DEMUXERS:
            _decode_av(file, container, writer, field)
        else:
            _decode_sndfile(file, writer)
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


def _decode_sndfile(file: BinaryIO, writer: MonoWriter) -> None:
    with soundfile.SoundFile(file.fileno(), closefd=False) as sound:
        writer.open(sound.samplerate, sound.channels)
        while len(block := sound.read(_BLOCK_SAMPLES, dtype="float32", always_2d=True)):
            writer.write(block)


def _refuse_other_files(url: str, _flags: int, _options: dict[str, str]) -> NoReturn:
    raise PermissionError(f"the audio refers to another file: {url[:100]}")


def _decode_av(file: BinaryIO, container: Container, writer: MonoWriter, field: str) -> None:
    with av.open(
        file,
        format=_DEMUXERS[container],
        container_options=_CONTAINER_OPTIONS,
        metadata_errors="replace",
        io_open=_refuse_other_files,
    ) as source:
        if not source.streams.audio:
            raise undecodable(field, container, "it has no audio stream")
        stream = source.streams.audio[0]
        codec = stream.codec_context.name if stream.codec_context else "unknown"
        if codec not in _DECODERS.split(","):
            raise undecodable(field, container, f"its codec is not accepted: {codec}")
        stream.codec_context.thread_count = 1
        frames = _frames(source, stream, field, container)
        for (rate_hz, channels, is_planar), group in groupby(frames, key=_frame_kind):
            if writer.sample_rate_hz == 0:
                writer.open(rate_hz, channels)
            elif rate_hz != writer.sample_rate_hz:
                change = f"from {writer.sample_rate_hz} to {rate_hz} Hz"
                raise undecodable(field, container, f"its sample rate changes {change}")
            for values in _in_bulk(frame.to_ndarray() for frame in group):
                writer.write(_to_block(values.T if is_planar else values.reshape(-1, channels)))


def _frame_kind(frame: Any) -> tuple[int, int, bool]:
    return frame.sample_rate, frame.layout.nb_channels, frame.format.is_planar


def _in_bulk(arrays: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """Joined along time: a codec's frame is 20 ms, too little for numpy to be worth its while."""
    waiting: list[NDArray[Any]] = []  # planar [channels, n], packed [1, n * channels]
    num_values = 0
    for array in arrays:
        waiting.append(array)
        num_values += array.size
        if num_values >= _BLOCK_SAMPLES:
            yield np.concatenate(waiting, axis=1)
            waiting, num_values = [], 0
    if waiting:
        yield np.concatenate(waiting, axis=1)


def _frames(source: Any, stream: Any, field: str, container: Container) -> Iterator[Any]:
    """Decoded frames; packets that are damaged are skipped as long as they are the lesser part."""
    num_packets = num_bad = 0
    for packet in source.demux(stream):
        num_packets += 1
        try:
            yield from packet.decode()
        except (av.error.InvalidDataError, av.error.EOFError):
            num_bad += 1
    if num_bad > num_packets * _MAX_BAD_SHARE:
        raise undecodable(field, container, f"{num_bad} of {num_packets} packets are damaged")


def _to_block(block: NDArray[Any]) -> NDArray[np.float32]:
    """[n, channels] of any sample type as float32; integers scaled to [-1, 1)."""
    if block.dtype == np.uint8:
        return (block.astype(np.float32) - np.float32(128)) / np.float32(128)
    if np.issubdtype(block.dtype, np.integer):
        return block.astype(np.float32) / np.float32(-np.iinfo(block.dtype).min)
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, refused later
        return block.astype(np.float32, copy=False)
