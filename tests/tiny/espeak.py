"""espeak-ng through ctypes: samples and word times of one text, milliseconds a call.

Word times come from its WORD events (text position, sample) and its PHONEME events (a pause after
a word shows where the word ended).
"""

import ctypes as c
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_SYNCHRONOUS, _PHONEME_EVENTS, _UTF8, _POS_CHARACTER = 2, 1, 1, 1
_EVENT_WORD, _EVENT_PHONEME = 1, 7
_RATE, _PITCH, _RANGE, _WORD_GAP = 1, 3, 4, 7


class _EventId(c.Union):
    _fields_ = [("number", c.c_int), ("name", c.c_char_p), ("string", c.c_char * 8)]


class _Event(c.Structure):
    _fields_ = [
        ("type", c.c_int),
        ("unique_identifier", c.c_uint),
        ("text_position", c.c_int),
        ("length", c.c_int),
        ("audio_position", c.c_int),
        ("sample", c.c_int),
        ("user_data", c.c_void_p),
        ("id", _EventId),
    ]


_Callback = c.CFUNCTYPE(c.c_int, c.POINTER(c.c_short), c.c_int, c.POINTER(_Event))


@dataclass(frozen=True)
class Prosody:
    """How one utterance is said; espeak's own scales."""

    rate_wpm: int = 175
    pitch: int = 50  # 0 … 100
    pitch_range: int = 50  # 0 … 100
    word_gap: int = 0  # tens of milliseconds


@dataclass(frozen=True)
class Spoken:
    """Samples at the engine's rate; for each token its first and last sample (-1: unknown)."""

    samples: np.ndarray  # int16 [n]
    sample_rate_hz: int
    starts: np.ndarray  # int64 [tokens]
    ends: np.ndarray  # int64 [tokens]


class Espeak:
    """One engine a process: the library holds global state."""

    def __init__(self, library: c.CDLL, data_dir: Path | None) -> None:
        self._lib = library
        self._chunks: list[bytes] = []
        self._words: list[tuple[int, int]] = []  # (character position from 0, sample)
        self._pauses: list[int] = []  # samples at which a pause begins
        self._voice = ""
        path = None if data_dir is None else str(data_dir).encode()
        self.sample_rate_hz: int = library.espeak_Initialize(_SYNCHRONOUS, 0, path, _PHONEME_EVENTS)
        if self.sample_rate_hz <= 0:
            raise RuntimeError(f"espeak-ng found no data in {data_dir or 'its default folder'}")
        self._callback = _Callback(self._receive)  # kept: the library holds the pointer only
        library.espeak_SetSynthCallback(self._callback)

    def say(self, tokens: tuple[str, ...], voice: str, prosody: Prosody) -> Spoken:
        """Speaks ' '.join(tokens); raises ValueError for an unknown voice."""
        if voice != self._voice:
            if self._lib.espeak_SetVoiceByName(voice.encode()) != 0:
                raise ValueError(f"espeak-ng has no voice {voice!r}")
            self._voice = voice
        for parameter, value in (
            (_RATE, prosody.rate_wpm),
            (_PITCH, prosody.pitch),
            (_RANGE, prosody.pitch_range),
            (_WORD_GAP, prosody.word_gap),
        ):
            self._lib.espeak_SetParameter(parameter, value, 0)
        for heard in (self._chunks, self._words, self._pauses):
            heard.clear()
        data = " ".join(tokens).encode()
        self._lib.espeak_Synth(data, len(data) + 1, 0, _POS_CHARACTER, 0, _UTF8, None, None)
        samples = np.frombuffer(b"".join(self._chunks), np.int16)
        return Spoken(samples, self.sample_rate_hz, *self._token_times(tokens, len(samples)))

    def _receive(self, wav, num_samples, events) -> int:  # type: ignore[no-untyped-def]
        if num_samples > 0 and wav:
            self._chunks.append(c.string_at(wav, 2 * num_samples))
        at = 0
        while events[at].type != 0:
            event = events[at]
            if event.type == _EVENT_WORD and event.length > 0:
                self._words.append((event.text_position - 1, event.sample))
            elif event.type == _EVENT_PHONEME and event.id.string[:1] == b"_":
                self._pauses.append(event.sample)
            at += 1
        return 0

    def _token_times(
        self, tokens: tuple[str, ...], num_samples: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tokens by the text position of their words; a word ends at a pause or the next word."""
        starts = np.full(len(tokens), -1, np.int64)
        ends = np.full(len(tokens), -1, np.int64)
        offsets = np.cumsum([0] + [len(t) + 1 for t in tokens])
        boundaries = np.array([s for _, s in self._words[1:]] + [num_samples])
        pauses = np.array([*self._pauses, num_samples])
        for (position, start), boundary in zip(self._words, boundaries, strict=True):
            token = int(np.searchsorted(offsets, position, "right")) - 1
            if not 0 <= token < len(tokens):
                continue
            pause = pauses[np.searchsorted(pauses, start, "right")] if len(pauses) else boundary
            if starts[token] < 0:
                starts[token] = start
            ends[token] = min(pause, boundary) if pause > start else boundary
        return starts, ends
