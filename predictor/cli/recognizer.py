"""Who transcribes: the engine in this process, or a running service."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:  # help must not wait for numpy
    from predictor.types import Transcription


class RecordingError(Exception):
    """One recording could not be transcribed; others may."""


class Recognizer(Protocol):
    """A context manager; `transcribe` may be called from several threads at once."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def transcribe(self, data: bytes, name: str) -> Transcription:
        """The answer for an encoded recording. Raises RecordingError."""
        ...
