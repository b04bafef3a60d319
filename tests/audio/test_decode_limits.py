"""Limits hold while decoding, whatever the header says; what is no sound is refused by name."""

from __future__ import annotations

import asyncio
import io
import struct
from collections.abc import Callable
from typing import Any

import av
import numpy as np
import pytest

from predictor.audio.decode import AudioDecoder, AudioLimits
from predictor.errors import AudioError, AudioTooLong, InvalidInput, PayloadTooLarge
from predictor.types import Samples

Decode = Callable[..., Samples]


def refused(decoder: AudioDecoder, data: bytes, error: type[InvalidInput]) -> InvalidInput:
    with pytest.raises(error) as caught:
        asyncio.run(decoder.decode(data, field="file"))
    assert type(caught.value) is error
    assert caught.value.field == "file"
    assert caught.value.value is not None
    assert caught.value.limit is not None
    return caught.value


@pytest.mark.parametrize("data", [b"", b"RIFF", b"hello world, this is no audio", bytes(1000)])
def test_what_is_no_audio(data: bytes, decoder: AudioDecoder) -> None:
    error = refused(decoder, data, AudioError)
    assert "no known audio format" in error.message


def test_half_a_header_of_every_format(files: dict[str, bytes], decoder: AudioDecoder) -> None:
    for data in files.values():
        with pytest.raises(AudioError):
            asyncio.run(decoder.decode(data[:20]))


@pytest.mark.parametrize(
    ("kind", "subtype"), [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("AIFF", "PCM_16")]
)
def test_a_file_without_samples(
    kind: str, subtype: str, decoder: AudioDecoder, make_sndfile: Any
) -> None:
    empty = make_sndfile(np.zeros(0, np.float32), 16_000, kind, subtype)
    assert "no samples" in refused(decoder, empty, AudioError).message


def test_ten_milliseconds_are_a_recording(decode: Decode, make_sndfile: Any) -> None:
    for rate in (8_000, 16_000, 48_000):
        short = make_sndfile(np.full(rate // 100, 0.5, np.float32), rate, "FLAC", "PCM_16")
        assert len(decode(short)) == 160
    one = make_sndfile(np.full(1, 0.5, np.float32), 16_000, "WAV", "PCM_16")
    assert decode(one).tolist() == [0.5]


def test_digital_silence_is_a_recording(decode: Decode, make_sndfile: Any) -> None:
    silence = make_sndfile(np.zeros(44_100, np.float32), 44_100, "FLAC", "PCM_16")
    samples = decode(silence)
    assert len(samples) == 16_000
    assert not samples.any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["WAV", "AU"])
def test_nan_and_infinity(bad: float, kind: str, decoder: AudioDecoder, make_sndfile: Any) -> None:
    audio = np.zeros(32_000, np.float32)
    audio[16_000] = bad
    error = refused(decoder, make_sndfile(audio, 16_000, kind, "FLOAT"), AudioError)
    assert "NaN or infinite sample near 1.00 s" in error.message


def test_samples_beyond_one_scale_the_recording(decode: Decode, make_sndfile: Any) -> None:
    audio = 4 * np.sin(np.arange(16_000, dtype=np.float32) / 10)
    samples = decode(make_sndfile(audio, 16_000, "WAV", "FLOAT"))
    assert np.abs(samples).max() == pytest.approx(1.0)
    assert samples == pytest.approx(audio / np.abs(audio).max(), abs=1e-6)
    # Sent as 16-bit integers in a float file, a common mistake: heard all the same.
    huge = decode(make_sndfile(audio * 8000, 16_000, "WAV", "FLOAT"))
    assert huge == pytest.approx(samples, abs=1e-6)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "AIFF"])
def test_length(kind: str, start_decoder: Callable[..., AudioDecoder], make_sndfile: Any) -> None:
    decoder = start_decoder(AudioLimits(max_duration_s=1.0))
    padded = make_sndfile(np.zeros(8_800, np.float32), 8_000, kind, "PCM_16")
    assert len(asyncio.run(decoder.decode(padded))) == 17_600  # an encoder's padding is let pass
    long = make_sndfile(np.zeros(9_000, np.float32), 8_000, kind, "PCM_16")
    error = refused(decoder, long, AudioTooLong)
    assert error.limit == 1.0
    assert "exceed the limit of 1 s" in error.message


def test_bytes(start_decoder: Callable[..., AudioDecoder], files: dict[str, bytes]) -> None:
    decoder = start_decoder(AudioLimits(max_bytes=1000))
    error = refused(decoder, files["mp3"], PayloadTooLarge)
    assert (error.value, error.limit) == (len(files["mp3"]), 1000)


@pytest.mark.parametrize("kind", ["WAV", "CAF"])
def test_channels(kind: str, decoder: AudioDecoder, make_sndfile: Any) -> None:
    nine = make_sndfile(np.zeros((100, 9), np.float32), 16_000, kind, "PCM_16")
    error = refused(decoder, nine, InvalidInput)
    assert (error.value, error.limit) == (9, 8)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "AU"])
@pytest.mark.parametrize("rate", [4_000, 384_000])
def test_rates(kind: str, rate: int, decoder: AudioDecoder, make_sndfile: Any) -> None:
    data = make_sndfile(np.zeros(1000, np.float32), rate, kind, "PCM_16")
    error = refused(decoder, data, InvalidInput)
    assert (error.value, error.limit) == (rate, "8000..192000")


def hours_of_silence(muxer: str, encoder: str, hours: float) -> bytes:
    """A file a thousand times smaller than its samples."""
    out = io.BytesIO()
    with av.open(out, "w", format=muxer) as container:
        stream = container.add_stream(encoder, rate=48_000, layout="mono")
        context = stream.codec_context
        context.open()
        frame = av.AudioFrame(context.format.name, "mono", context.frame_size or 4608)
        frame.sample_rate = 48_000
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        for index in range(int(hours * 3600 * 48_000) // frame.samples):
            frame.pts = index * frame.samples
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return out.getvalue()


def test_a_bomb_stops_at_the_limit(start_decoder: Callable[..., AudioDecoder]) -> None:
    bomb = hours_of_silence("flac", "flac", 0.5)
    assert len(bomb) < 1_000_000  # of 86,400,000 samples
    decoder = start_decoder(AudioLimits(max_duration_s=60.0))
    assert "more than 60 s" in refused(decoder, bomb, AudioTooLong).message
    decoder = start_decoder(AudioLimits(max_duration_s=10_000, max_decoded_values=48_000 * 30))
    error = refused(decoder, bomb, AudioError)
    assert error.limit == 48_000 * 30
    assert "more than 1440000 values" in error.message


def test_a_flac_that_lies_about_its_length(
    files: dict[str, bytes], decode: Decode, start_decoder: Callable[..., AudioDecoder]
) -> None:
    honest = decode(files["flac"])
    for stated in (0, 5, 2**36 - 1):
        lying = bytearray(files["flac"])
        # STREAMINFO: 36 bits of total samples end 18 bytes into its body, which starts at 8.
        lying[21] = lying[21] & 0xF0 | stated >> 32
        lying[22:26] = struct.pack(">I", stated & 0xFFFFFFFF)
        assert np.array_equal(decode(bytes(lying)), honest)
    short = start_decoder(AudioLimits(max_duration_s=1.0))
    refused(short, bytes(lying), AudioTooLong)


@pytest.mark.parametrize("name", ["m4a", "mp4", "3gp", "alac.m4a"])
def test_an_mp4_that_lies_about_its_length(
    name: str, files: dict[str, bytes], decode: Decode, start_decoder: Callable[..., AudioDecoder]
) -> None:
    lying = bytearray(files[name])
    for box, at in ((b"mvhd", 20), (b"mdhd", 20), (b"tkhd", 24)):
        position = lying.index(box) + at  # of the 32-bit duration in a version 0 box
        lying[position : position + 4] = struct.pack(">I", 1)
    honest = decode(files[name])
    assert len(decode(bytes(lying))) == pytest.approx(len(honest), abs=1700)
    refused(start_decoder(AudioLimits(max_duration_s=1.0)), bytes(lying), AudioTooLong)


def test_only_the_sound_of_a_video_is_decoded(decode: Decode, make_speech: Any) -> None:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        video = container.add_stream("mpeg4", rate=10, width=64, height=64, pix_fmt="yuv420p")
        audio = container.add_stream("aac", rate=16_000, layout="mono")
        for index in range(10):
            picture = av.VideoFrame.from_ndarray(np.full((96, 64), index * 20, np.uint8), "yuv420p")
            picture.pts = index
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        for start in range(0, 15_360, 1024):
            sound = make_speech(1.0, 16_000)[None, start : start + 1024]
            frame = av.AudioFrame.from_ndarray(sound, "fltp", "mono")
            frame.sample_rate, frame.pts = 16_000, start
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    assert len(decode(out.getvalue())) == pytest.approx(15_360, abs=2100)


def test_a_codec_that_is_not_accepted(
    files: dict[str, bytes], decoder: AudioDecoder, make_file: Any, make_speech: Any
) -> None:
    known = make_file(make_speech(0.5, 8_000), 8_000, "matroska", "real_144")
    assert "codec is not accepted: r" in refused(decoder, known, AudioError).message
    unknown = files["3gp"].replace(b"samr", b"zzzz")
    assert "codec is not accepted: unknown" in refused(decoder, unknown, AudioError).message


def test_a_file_without_sound(decoder: AudioDecoder) -> None:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        video = container.add_stream("mpeg4", rate=10, width=64, height=64, pix_fmt="yuv420p")
        picture = av.VideoFrame.from_ndarray(np.zeros((96, 64), np.uint8), "yuv420p")
        picture.pts = 0
        container.mux([*video.encode(picture), *video.encode(None)])
    error = refused(decoder, out.getvalue(), AudioError)
    assert "no audio stream" in error.message


@pytest.mark.parametrize(
    "playlist",
    [
        b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/hostname\n",
        b"ffconcat version 1.0\nfile /etc/hostname\n",
        b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>',
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n",
        b"[Script Info]\nScriptType: v4.00+\n",
        b"http://127.0.0.1:1/a.wav",
    ],
)
def test_playlists_and_addresses_are_no_audio(playlist: bytes, decoder: AudioDecoder) -> None:
    assert "no known audio format" in refused(decoder, playlist, AudioError).message
    for disguise in (b"OggS", b"fLaC", b"\x1a\x45\xdf\xa3", b"\0\0\0\x08ftyp"):
        with pytest.raises(AudioError):
            asyncio.run(decoder.decode(disguise + playlist))
