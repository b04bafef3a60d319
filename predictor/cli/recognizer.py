"""Who transcribes: the engine in this process, or a running service."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:  # help must not wait for numpy
    from predictor.text.cue_lines import SubtitleOptions
    from predictor.types import Transcription


# Takes how many seconds of a recording are done, and how long it says that it is, if it does.
Told = Callable[[float, float | None], None]


class RecordingError(Exception):
    """One recording could not be transcribed; others may."""


class Recognizer(Protocol):
    """A context manager; `transcribe` may be called from several threads at once."""

    @property
    def cues(self) -> SubtitleOptions | None:
        """The limits of subtitles, where the settings say some."""
        ...

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def transcribe(self, data: bytes, name: str, told: Told | None = None) -> Transcription:
        """The answer for an encoded recording; `told` hears how far it is, where that is known, in
        any thread. Raises RecordingError; CliError ends the whole run."""
        ...
