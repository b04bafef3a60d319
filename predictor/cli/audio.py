"""Sound as a live session sends it: from a file or a microphone, through FFmpeg."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from predictor.cli.errors import CliError

RATE_HZ: Final = 24_000  # of a live session's PCM16
BYTES_PER_S: Final = 2 * RATE_HZ
STDIN: Final = "-"
_MICROPHONES: Final = {"linux": ("pulse:default", "alsa:default"), "darwin": ("avfoundation::0",)}
_ALSA: Final = Path("/usr/share/alsa/alsa.conf")  # PyAV's own ALSA looks elsewhere
_HINT: Final = (
    "give --device FORMAT:NAME (alsa:hw:0, or what arecord -L lists), or pipe it in: "
    "arecord -t wav -f S16_LE -r 24000 - | qwen3-asr live - --url URL"
)


def check_source(file: str | None, device: str | None) -> None:
    """Raises CliError for what can be no file or microphone, before a service is asked."""
    if file is not None and device is not None:
        raise CliError("--device is a microphone's; give it or a file")
    if device is not None and not all(device.partition(":")):
        raise CliError(f"--device {device}: must be FORMAT:NAME as FFmpeg has it, as alsa:hw:1")
    if file is not None and file != STDIN:
        try:
            with open(file, "rb"):
                pass
        except OSError as error:
            raise CliError(f"{file}: {error.strerror}") from error


def pcm16(source: str, form: str | None = None, rate_hz: int = RATE_HZ) -> Iterator[bytes]:
    """Mono PCM16, as it comes. Raises CliError where nothing can be read.

    `form` is FFmpeg's name of a capture device's kind, such as "alsa"; None for files, of which
    "-" is standard input.
    """
    import av

    try:
        file = sys.stdin.buffer if source == STDIN and form is None else source
        container = av.open(file, format=form)
    except (OSError, ValueError) as error:  # FFmpeg's errors are kinds of these
        raise CliError(f"{source}: {error}") from error
    resampler = av.AudioResampler(format="s16", layout="mono", rate=rate_hz)
    with container:
        if not container.streams.audio:
            raise CliError(f"{source}: holds no audio")
        try:
            for frame in container.decode(audio=0):
                yield from map(_bytes, resampler.resample(frame))
        except (OSError, ValueError) as error:
            raise CliError(f"{source}: {error}") from error
        yield from map(_bytes, resampler.resample(None))


def _bytes(frame: Any) -> bytes:
    data: bytes = frame.to_ndarray().tobytes()
    return data


def microphone(device: str | None) -> Iterator[bytes]:
    """The same from a microphone; `device` is FORMAT:NAME as FFmpeg has it, such as alsa:hw:1."""
    form, _, name = (device or _default_device()).partition(":")
    if form == "alsa" and _ALSA.exists():
        os.environ.setdefault("ALSA_CONFIG_PATH", str(_ALSA))
    try:
        yield from pcm16(name, form)
    except CliError as error:
        raise CliError(f"microphone {form}:{error}; {_HINT}") from error


def _default_device() -> str:
    """The first that this FFmpeg can open. Raises CliError."""
    import av

    for device in _MICROPHONES.get(sys.platform, ()):
        if device.partition(":")[0] in av.formats_available:
            return device
    raise CliError(f"no default microphone on {sys.platform}; {_HINT}")
