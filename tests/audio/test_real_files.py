"""Files as they are: written by ffmpeg, sox, lame, flac, wavpack and the Vorbis and Opus tools.

Encoders we did not write; the same sentence is told by its likeness to the recording it was made
of. predictor/README.md lists what is decoded here.
"""

from __future__ import annotations

import asyncio
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from predictor.audio.decode import AudioDecoder, AudioOptions
from predictor.errors import InvalidInput
from predictor.types import AudioEnd, AudioPiece, Samples

ROOT = Path(__file__).parents[2]
CLIP = ROOT / "predictor" / "recordings" / "demo-en-2.flac"
SECOND = ROOT / "predictor" / "recordings" / "demo-zh-4.flac"

FFMPEG = "ffmpeg -v error -y -i {clip} "
# name of the file -> (what README calls it, command); {out} is the file to write.
FILES: dict[str, tuple[str, str]] = {
    "lame.mp3": ("MP3", "lame --quiet {wav} {out}"),
    "layer2.mp2": ("MP3", FFMPEG + "{out}"),
    "tool.flac": ("FLAC", "flac -s -f {wav} -o {out}"),
    "tool.ogg": ("Ogg Vorbis", "oggenc -Q {wav} -o {out}"),
    "tool.opus": ("Ogg Opus", "opusenc --quiet {wav} {out}"),
    "flac.oga": ("Ogg FLAC", FFMPEG + "-c:a flac {out}"),
    "a.spx": ("Ogg Speex", FFMPEG + "-c:a libspeex {out}"),
    "tool.wv": ("WavPack", "wavpack -q -y {wav} -o {out}"),
    "sox.au": ("AU", "sox {wav} {out}"),
    "sox.aiff": ("AIFF", "sox {wav} {out}"),
    "sox.wav": ("WAV (PCM, float, A-law, mu-law, ADPCM, GSM)", "sox {wav} -e ms-adpcm {out}"),
    "ulaw.wav": ("WAV (PCM, float, A-law, mu-law, ADPCM, GSM)", "sox {wav} -e mu-law {out}"),
    "gsm.wav": ("WAV (PCM, float, A-law, mu-law, ADPCM, GSM)", "sox {wav} -r 8k -e gsm {out}"),
    "a.w64": ("W64", "sox {wav} {out}"),
    "a.m4a": ("MP4, M4A, MOV, 3GP (AAC, ALAC, AMR, PCM)", FFMPEG + "-c:a aac {out}"),
    "alac.m4a": ("MP4, M4A, MOV, 3GP (AAC, ALAC, AMR, PCM)", FFMPEG + "-c:a alac {out}"),
    "a.mov": ("MP4, M4A, MOV, 3GP (AAC, ALAC, AMR, PCM)", FFMPEG + "-c:a pcm_s16be {out}"),
    "alac.caf": ("CAF (ALAC, Opus, PCM)", FFMPEG + "-c:a alac {out}"),
    "opus.caf": ("CAF (ALAC, Opus, PCM)", FFMPEG + "-c:a libopus {out}"),
    "pcm.caf": ("CAF (ALAC, Opus, PCM)", FFMPEG + "-c:a pcm_s16be {out}"),
    "a.webm": ("WebM, MKV", FFMPEG + "-c:a libopus {out}"),
    "a.mka": ("WebM, MKV", FFMPEG + "-c:a flac {out}"),
    "a.aac": ("AAC (ADTS, LATM)", FFMPEG + "-c:a aac {out}"),
    "a.latm": ("AAC (ADTS, LATM)", FFMPEG + "-c:a aac -f latm {out}"),
    "a.wma": ("WMA", FFMPEG + "-c:a wmav2 {out}"),
    "a.ts": ("MPEG-TS", FFMPEG + "-c:a aac {out}"),
    "mp2.ts": ("MPEG-TS", FFMPEG + "-c:a mp2 {out}"),
    "mp3.avi": ("AVI", FFMPEG + "-c:a mp3 {out}"),
    "pcm.avi": ("AVI", FFMPEG + "-c:a pcm_s16le {out}"),
    "a.flv": ("FLV", FFMPEG + "-c:a aac {out}"),
    "a.ac3": ("AC-3, E-AC-3", FFMPEG + "{out}"),
    "a.eac3": ("AC-3, E-AC-3", FFMPEG + "{out}"),
    "a.tta": ("TTA", FFMPEG + "{out}"),
}
# Bare samples and frames, named by their content type.
RAW: dict[str, str] = {
    "audio/basic": "sox {wav} -r 8k -e mu-law -t raw {out}",
    "audio/PCMU": FFMPEG + "-ar 8000 -f mulaw {out}",
    "audio/PCMA": FFMPEG + "-ar 8000 -f alaw {out}",
    "audio/G722": FFMPEG + "-ar 16000 -f g722 {out}",
    "audio/GSM": FFMPEG + "-ar 8000 -c:a libgsm -f gsm {out}",
    "audio/pcm; rate=8000": FFMPEG + "-ar 8000 -f s16le {out}",
}
Make = Callable[..., bytes]


@pytest.fixture(scope="module")
def speech() -> Samples:
    samples, _ = soundfile.read(CLIP, dtype="float32")
    return np.asarray(samples, np.float32)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A command's file, by its name."""
    folder = tmp_path_factory.mktemp("files")
    for source in (CLIP, SECOND):
        samples, rate = soundfile.read(source)
        soundfile.write(folder / f"{source.stem}.wav", samples, rate, subtype="PCM_16")

    def run(command: str, name: str, clip: Path = CLIP, **more: object) -> bytes:
        out = folder / name
        wav = folder / f"{clip.stem}.wav"
        words = command.format(clip=clip, wav=wav, out=out, **more).split()
        if shutil.which(words[0]) is None:
            pytest.skip(f"{words[0]} is not installed; .ci/run names its Debian package")
        subprocess.run(words, check=True, capture_output=True, cwd=folder)
        return out.read_bytes()

    return run


def likeness(samples: Samples, original: Samples) -> float:
    """Of the spectra's shape over time, whatever a codec does to the phase: 1 is the same."""

    def shape(x: Samples) -> Samples:
        frames = x[: len(x) // 256 * 256].reshape(-1, 256)
        magnitude = np.abs(np.fft.rfft(frames * np.hanning(256)))[:, 2:56]  # to 3.4 kHz
        bands = magnitude.reshape(len(frames), 9, 6).mean(axis=2)
        return np.log(bands + 0.05)

    def at(shift: int) -> float:
        ours = shape(samples[max(shift, 0) :][: len(original)])
        theirs = shape(original[max(-shift, 0) :])
        size = min(len(ours), len(theirs))
        a, b = ours[:size] - ours[:size].mean(), theirs[:size] - theirs[:size].mean()
        return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))

    return max(at(shift) for shift in range(-2560, 4096, 128))


@pytest.mark.parametrize("name", FILES)
def test_files_of_other_encoders(
    name: str, make: Make, speech: Samples, decode: Callable[..., Samples]
) -> None:
    samples = decode(make(FILES[name][1], name))
    assert len(speech) - 1600 <= len(samples) <= len(speech) + 3200
    assert likeness(samples, speech) > 0.85


@pytest.mark.parametrize("content_type", RAW)
def test_bare_samples_and_frames(
    content_type: str, make: Make, speech: Samples, decode: Callable[..., Samples]
) -> None:
    data = make(RAW[content_type], f"raw-{list(RAW).index(content_type)}")
    samples = decode(data, content_type=content_type)
    assert len(samples) == pytest.approx(len(speech), abs=400)
    assert likeness(samples, speech) > 0.85


@pytest.mark.parametrize("kind", ["mp3", "aac", "ogg"])
def test_joined_files_of_different_rates(
    kind: str, make: Make, speech: Samples, decode: Callable[..., Samples]
) -> None:
    codec = {"mp3": "libmp3lame", "aac": "aac", "ogg": "libvorbis"}[kind]
    command = FFMPEG + f"-c:a {codec} -ar {{rate}} {{out}}"
    first = make(command, f"first.{kind}", rate=16_000)
    second = make(command, f"second.{kind}", clip=SECOND, rate=32_000)
    chinese, _ = soundfile.read(SECOND, dtype="float32")
    samples = decode(first + second)
    assert len(samples) == pytest.approx(len(speech) + len(chinese), abs=6000)
    assert likeness(samples[: len(speech) + 2000], speech) > 0.8
    assert likeness(samples[-len(chinese) - 1500 :], chinese) > 0.8


@pytest.mark.parametrize("name", ["lame.mp3", "a.aac", "a.latm", "a.ac3", "a.ts"])
def test_streams_that_begin_anywhere(name: str, make: Make, decode: Callable[..., Samples]) -> None:
    data = make(FILES[name][1], name)
    whole = decode(data)
    cut = decode(data[333:])  # in the middle of a frame
    assert len(whole) - 8000 <= len(cut) <= len(whole)
    assert likeness(cut, whole[len(whole) - len(cut) :]) > 0.9
    assert len(decode(bytes(5000) + data)) == len(whole)


def tags() -> dict[str, bytes]:
    size = 70_000  # past where a first frame is looked for
    bits = bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
    ape = b"APETAGEX" + struct.pack("<IIII8x", 2000, 40, 0, 0xA0000000)
    return {
        "ID3": b"ID3\4\0\0" + bits + bytes(size),
        "APE": ape + bytes(40),
        "both": b"ID3\4\0\0\0\0\0\x0a" + bytes(10) + ape + bytes(40),
    }


@pytest.mark.parametrize("tag", tags())
@pytest.mark.parametrize("name", ["lame.mp3", "a.aac", "tool.flac", "sox.wav", "tool.wv"])
def test_tags_before_a_recording(
    tag: str, name: str, make: Make, decode: Callable[..., Samples]
) -> None:
    data = make(FILES[name][1], name)
    assert len(decode(tags()[tag] + data)) == len(decode(data))


def test_wav_files_that_were_joined_and_second_data_chunks(
    make: Make, speech: Samples, decode: Callable[..., Samples]
) -> None:
    narrow = make("sox {wav} -r 8k {out}", "narrow.wav")
    wide = make("sox {wav} -c 2 {out}", "wide.wav")
    samples = decode(narrow + wide)
    assert len(samples) == pytest.approx(2 * len(speech), abs=2)
    assert likeness(samples[: len(speech)], speech) > 0.85
    assert likeness(samples[len(speech) :], speech) > 0.99
    data = wide[wide.index(b"data") :]
    assert len(decode(wide + data)) == 2 * len(speech)


def pieces(decoder: AudioDecoder, data: bytes, **more: Any) -> tuple[list[AudioPiece], AudioEnd]:
    class Unlimited:
        async def grow(self, audio_s: float, kept_s: float) -> None: ...
        def release(self, audio_s: float) -> None: ...

    async def run() -> tuple[list[AudioPiece], AudioEnd]:
        found: list[AudioPiece] = []
        async for item in decoder.pieces(decoder.source(data, **more), Unlimited()):
            if isinstance(item, AudioEnd):
                return found, item
            found.append(item)
        raise AssertionError("no end")

    return asyncio.run(run())


LATE = "ffmpeg -v error -y -f lavfi -i color=s=64x64:d=12 -itsoffset 7 -i {clip} "


@pytest.mark.parametrize("name", ["late.mp4", "late.ts", "late.mkv", "late.flv"])
def test_a_track_that_begins_late_keeps_its_time(
    name: str, make: Make, decoder: AudioDecoder
) -> None:
    found, end = pieces(decoder, make(LATE + "-c:a aac {out}", name))
    assert found[0].start_s == pytest.approx(6.8, abs=0.3)
    assert end.duration_s == pytest.approx(9.5, abs=0.3)


def test_a_gap_keeps_the_times_behind_it(make: Make, decoder: AudioDecoder) -> None:
    half = make(FFMPEG + "-af aselect='lt(t,1)+gt(t,2)' -c:a libopus {out}", "gap.mkv")
    assert pieces(decoder, half)[1].duration_s == pytest.approx(2.5, abs=0.1)


TWO = (
    "ffmpeg -v error -y -f lavfi -i anullsrc=r=16000:cl=mono:d=2 -i {clip} -map 0:a -map 1:a "
    "-c:a aac -disposition:a:0 0 -disposition:a:1 default {out}"
)


@pytest.mark.parametrize("name", ["two.mp4", "two.mkv"])
def test_the_track_marked_default_is_heard_or_the_one_asked_for(
    name: str, make: Make, decoder: AudioDecoder
) -> None:
    data = make(TWO, name)
    assert pieces(decoder, data)[0]
    assert not pieces(decoder, data, options=AudioOptions(track=0))[0]
    assert pieces(decoder, data, options=AudioOptions(track=1))[0]
    with pytest.raises(InvalidInput, match="track 2 was asked for, the file has 2 audio tracks"):
        pieces(decoder, data, options=AudioOptions(track=2))


def test_opposite_polarity_does_not_cancel(make: Make, decoder: AudioDecoder) -> None:
    data = make("sox -M {wav} -v -1 {wav} {out}", "opposite.wav")
    found, end = pieces(decoder, data)
    assert found
    assert "opposite polarity" in end.notes[0]
    same, plain = pieces(decoder, make("sox -M {wav} {wav} {out}", "same.wav"))
    assert plain.notes == ()
    assert [p.start_s for p in same] == [p.start_s for p in found]


def test_channels_apart(make: Make, speech: Samples, decoder: AudioDecoder) -> None:
    """A call: one speaks on the left, then another on the right."""
    data = call(make)
    found, _ = pieces(decoder, data, options=AudioOptions(channel="separate"))
    assert {p.channel for p in found} == {0, 1}
    left = [p for p in found if p.channel == 0]
    right = [p for p in found if p.channel == 1]
    assert left[-1].end_s < right[0].start_s + 0.5
    assert right[0].start_s == pytest.approx(len(speech) / 16_000, abs=0.4)


def call(make: Make) -> bytes:
    make("sox {wav} -r 8k {out} pad 0 3", "left.wav")
    make("sox {wav} -r 8k {out} pad 2.5 0.5", "right.wav", clip=SECOND)
    return make("sox -M left.wav right.wav -e mu-law {out}", "call.wav")


def test_what_is_not_what_its_content_type_says(
    make: Make, speech: Samples, decoder: AudioDecoder
) -> None:
    data = make("sox {wav} -r 44100 -c 2 {out}", "wide.wav")
    found, end = pieces(decoder, data, content_type="audio/pcm")
    assert found
    assert end.duration_s == pytest.approx(len(speech) / 16_000, abs=0.01)
    assert end.notes == ("sent as audio/pcm, but it is wav",)


def test_the_readme_lists_what_is_decoded_here() -> None:
    text = (ROOT / "predictor" / "README.md").read_text(encoding="utf-8")
    listed = text.partition("<!-- formats:begin -->\n")[2].partition("<!-- formats:end -->")[0]
    formats = sorted({title for title, _ in FILES.values()})
    raw = ", ".join(f"`{content_type}`" for content_type in RAW)
    assert listed == "".join(f"- {title}\n" for title in formats) + f"- by content type: {raw}\n"
