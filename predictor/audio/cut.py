"""One channel's samples in, the pieces to transcribe out, as soon as they are certain.

Quiet beyond a margin lies in no piece: it costs nothing and nothing can be invented of it. Bounded:
never more than one piece and its margins wait here, however long the recording is.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np

from predictor.audio.limits import CutOptions
from predictor.audio.segment import longest_run, quietest_cut
from predictor.audio.silero import FRAME_SAMPLES
from predictor.audio.speech import SpeechFinder, SpeechOptions
from predictor.audio.vad import VadState, load_detector
from predictor.types import SAMPLE_RATE_HZ, Samples

_MIN_TAIL_S: Final = 1.0  # a shorter rest is hardly ever a word of its own
_SEARCH_S: Final = 5.0
_MIN_PAUSE: Final = 3 * FRAME_SAMPLES  # 0.1 s; what is shorter may be inside a word
# Heard by two pieces on each side of a cut in speech: the word that is cut is whole in one of them.
_OVERLAP_S: Final = 1.0
_LOOK_BEHIND: Final = SAMPLE_RATE_HZ // 20  # that the search for the quietest place looks further
_HYSTERESIS: Final = 0.15
# Of the longest piece: from here on ever shorter pauses end one, down to 0.1 s.
_SHRINKS_FROM: Final = 0.2
_SHRINKS_TO: Final = 0.55
UNCUT_SHARE: Final = 0.4  # shorter recordings of speech are rarely cut


@dataclass(frozen=True, slots=True)
class Cut:
    """A piece: its samples [n], 16 kHz, and where in the recording they begin."""

    samples: Samples
    start: int  # in samples at 16 kHz
    overlap: int = 0  # samples of its beginning, that the piece before has too
    continues: bool = False  # it ends in speech, some of which the piece behind it has too


class Cutter:
    """Feed it blocks; take the pieces. `num_dropped` counts the samples that lie in none."""

    def __init__(self, options: CutOptions, search_s: float = _SEARCH_S) -> None:
        """`search_s`: how far before a piece must end its quietest place is looked for."""
        self._longest = int(options.segment_s * SAMPLE_RATE_HZ)
        if self._longest < SAMPLE_RATE_HZ // 50:
            raise ValueError(f"segment_s={options.segment_s} is below 0.02 s")
        # With VAD a pause of 0.1 s ends what is nearly too long: no look further ahead than that.
        tail_s = _MIN_TAIL_S if options.vad == "off" else 0.0
        self._tail = min(int(tail_s * SAMPLE_RATE_HZ), self._longest // 4)
        self._search = min(int(search_s * SAMPLE_RATE_HZ), self._longest // 2)
        self._buffer: Samples = np.empty(0, np.float32)  # its first samples are those that wait
        self._base = 0  # in the recording, of the first sample that waits
        self._end = 0  # in the recording, behind the last one
        self._free = 0  # from where the next piece may begin
        self._covered = 0  # behind the last piece
        self._overlap = min(int(_OVERLAP_S * SAMPLE_RATE_HZ), self._longest // 8)
        self._speech = None if options.vad == "off" else _Speech(options)
        self.num_dropped = 0
        self.loudest = 1.0  # peak so far, of samples beyond ±1 that the detector must not see
        self.speech_probability = 0.0 if self._speech else 1.0  # of the likeliest frame so far

    @property
    def num_waiting(self) -> int:
        """Samples that lie here."""
        return self._end - self._base

    def feed(self, samples: Samples) -> list[Cut]:
        """Pieces that became certain with `samples` [n]."""
        num_waiting, wanted = self.num_waiting, self.num_waiting + len(samples)
        if wanted > len(self._buffer):
            grown = np.empty(max(wanted, 3 * len(self._buffer) // 2), np.float32)
            grown[:num_waiting] = self._buffer[:num_waiting]
            self._buffer = grown
        self._buffer[num_waiting:wanted] = samples
        self._end += len(samples)
        return self._advance(is_last=False)

    def finish(self) -> list[Cut]:
        """What is left, at the end of the recording."""
        pieces = self._advance(is_last=True)
        self._forget(self._end)
        return pieces

    def _advance(self, *, is_last: bool) -> list[Cut]:
        if self._speech is None:
            return self._by_length(is_last=is_last)
        return self._by_speech(self._speech, is_last=is_last)

    def _by_length(self, *, is_last: bool) -> list[Cut]:
        pieces = []
        enough = self._longest + (0 if is_last else self._tail + _LOOK_BEHIND)
        while self.num_waiting > enough:
            latest = min(self._base + self._longest, self._end - self._tail)
            pieces.append(self._cut(self._base, self._quietest(latest - self._search, latest)))
        if is_last and self.num_waiting:
            pieces.append(self._cut(self._base, self._end))
        return pieces

    def _by_speech(self, speech: _Speech, *, is_last: bool) -> list[Cut]:
        self._hear(speech, is_last=is_last)
        pieces = []
        while (span := speech.step()) is not None:  # frame by frame: a cut may not come too late
            if span:
                pieces.append(self._cut_span(speech, *span))
            elif speech.num_open <= self._longest - speech.margin:
                continue  # nearly always, and quickly told
            elif (piece := self._too_long(speech, is_last=False)) is not None:
                pieces.append(piece)
        if is_last:
            while (piece := self._too_long(speech, is_last=True)) is not None:
                pieces.append(piece)
            pieces += [self._cut_span(speech, *span) for span in speech.finish()]
        self._forget(max(self._free, speech.settled - speech.margin))
        return pieces

    def _hear(self, speech: _Speech, *, is_last: bool) -> None:
        begin = speech.num_heard
        count = (self._end - begin) // FRAME_SAMPLES * FRAME_SAMPLES
        samples = self._samples(begin, begin + count)
        if is_last and begin + count < self._end:  # the last frame is completed by silence
            rest = self._samples(begin + count, self._end)
            samples = np.concatenate([samples, np.pad(rest, (0, FRAME_SAMPLES - len(rest)))])
        if len(samples) == 0:
            return
        self.loudest = max(self.loudest, float(samples.max()), -float(samples.min()))
        if self.loudest > 1.0:
            samples = samples / np.float32(self.loudest)
        self.speech_probability = max(self.speech_probability, speech.hear(samples))

    def _cut_span(self, speech: _Speech, start: int, end: int) -> Cut:
        """A span of speech with its margins. After a short pause the next piece begins where the
        speech ended: a soft beginning of its first word is told too late, in what this one has."""
        start = max(self._free, start - speech.margin)
        # Behind what was gone through somebody may speak again.
        heard = min(max(speech.position, end), self._end)
        last = min(heard, end + speech.margin, start + self._longest)
        return self._cut(start, last, free=min(end, last))

    def _too_long(self, speech: _Speech, *, is_last: bool) -> Cut | None:
        """The first part of speech that goes on for longer than a piece may, if it does."""
        if speech.start is None:
            return None
        start = max(self._free, speech.start - speech.margin)
        end = min(speech.end + speech.margin if is_last else speech.position, self._end)
        if end - start <= self._longest + (0 if is_last else self._tail + _LOOK_BEHIND):
            return None
        latest = min(start + self._longest, end - self._tail)
        pause = speech.longest_pause(start + self._longest // 3, latest)
        if pause is None or pause[1] - pause[0] < _MIN_PAUSE:
            return self._cut_in_speech(speech, start, latest - self._overlap)
        first, second = pause
        speech.go_on_from(second)
        middle = (first + second) // 2
        return self._cut(start, min(first + speech.margin, middle), free=first)

    def _cut_in_speech(self, speech: _Speech, start: int, latest: int) -> Cut:
        """Where it is quietest, but perhaps inside a word: the next piece hears it as well."""
        dip = speech.longest_pause(start + self._longest // 3, latest)
        cut = sum(dip) // 2 if dip else self._quietest(latest - self._search, latest)
        speech.go_on_from(cut - self._overlap)
        return self._cut(start, cut + self._overlap, self._overlap)

    def _quietest(self, low: int, high: int) -> int:
        low = max(low, self._base)
        begin = max(self._base, low - _LOOK_BEHIND)
        heard = self._samples(begin, min(self._end, high + 2 * _LOOK_BEHIND))
        return begin + quietest_cut(heard, low - begin, high - begin)

    def _samples(self, start: int, end: int) -> Samples:
        """A view, which the next samples may overwrite."""
        return self._buffer[start - self._base : min(end, self._end) - self._base]

    def _cut(self, start: int, end: int, overlap: int = 0, free: int | None = None) -> Cut:
        """`overlap`: on each side of a cut in speech, whose later half this piece has as well;
        `free`: from where the next piece may begin, elsewhere."""
        before = max(0, self._covered - start)
        piece = Cut(np.array(self._samples(start, end)), start, before, overlap > 0)
        self._free = end - 2 * overlap if free is None else free
        self.num_dropped -= end - start - before  # not dropped, though no longer here
        self._covered = end
        self._forget(self._free)
        return piece

    def _forget(self, position: int) -> None:
        """Samples before `position` are no longer needed."""
        position = min(position, self._end)
        if position > self._base:
            rest = self._samples(position, self._end)
            self._buffer[: len(rest)] = rest
            self.num_dropped += position - self._base
            self._base = position


class _Speech:
    """Frames heard so far, in samples: where speech begins, pauses and ends."""

    def __init__(self, options: CutOptions) -> None:
        assert options.vad != "off"
        self._detector = load_detector(options.vad)
        self._state = VadState.new()
        self._release = max(0.01, options.threshold - _HYSTERESIS)
        self._finder = SpeechFinder(
            SpeechOptions(
                options.threshold,
                self._release,
                options.min_speech_s,
                options.min_silence_s,
                shrinks_from_s=_SHRINKS_FROM * options.segment_s,
                shrinks_to_s=_SHRINKS_TO * options.segment_s,
            )
        )
        self.margin = int(options.margin_s * SAMPLE_RATE_HZ)
        self._probabilities: deque[float] = deque()  # heard, not yet gone through
        self._quiet: list[bool] = []  # of the frames since the open span's start
        self._quiet_from = 0  # the frame that the first of them is

    @property
    def num_heard(self) -> int:
        """Samples that the detector has had."""
        return (self._finder.num_frames + len(self._probabilities)) * FRAME_SAMPLES

    @property
    def position(self) -> int:
        """Samples that were gone through."""
        return self._finder.num_frames * FRAME_SAMPLES

    @property
    def start(self) -> int | None:
        return None if self._finder.start is None else self._finder.start * FRAME_SAMPLES

    @property
    def num_open(self) -> int:
        """Samples of the open span that were gone through, 0 without one."""
        start = self._finder.start
        return 0 if start is None else (self._finder.num_frames - start) * FRAME_SAMPLES

    @property
    def end(self) -> int:
        """Of what was last spoken."""
        return (self._finder.num_frames - self._finder.num_quiet) * FRAME_SAMPLES

    @property
    def settled(self) -> int:
        return self._finder.settled * FRAME_SAMPLES

    def hear(self, samples: Samples) -> float:
        """Takes whole frames; returns the highest probability among them."""
        frames = samples.reshape(1, -1, FRAME_SAMPLES)
        probabilities, self._state = self._detector.hear(frames, self._state)
        self._probabilities += probabilities[0].tolist()
        return float(probabilities.max())

    def step(self) -> tuple[int, int] | tuple[()] | None:
        """Goes through one frame: the span that ended with it, () for none; None: no more."""
        if not self._probabilities:
            return None
        probability = self._probabilities.popleft()
        span = self._finder.take(probability)
        self._quiet.append(probability < self._release)
        if self._finder.start is None:  # while a span is open, all of it is needed
            self._trim()
        return () if span is None else (span[0] * FRAME_SAMPLES, span[1] * FRAME_SAMPLES)

    def finish(self) -> list[tuple[int, int]]:
        return [
            (start * FRAME_SAMPLES, end * FRAME_SAMPLES) for start, end in self._finder.finish()
        ]

    def longest_pause(self, low: int, high: int) -> tuple[int, int] | None:
        """[start, end) of the longest pause of the open span that lies in [low, high]."""
        first = -(-low // FRAME_SAMPLES)
        quiet = self._quiet[first - self._quiet_from : high // FRAME_SAMPLES - self._quiet_from]
        begin, end = longest_run(np.array(quiet, dtype=bool))
        if begin == end:
            return None
        return (first + begin) * FRAME_SAMPLES, (first + end) * FRAME_SAMPLES

    def go_on_from(self, position: int) -> None:
        """The open span begins at `position` from now on: what lies before was cut off."""
        self._finder.restart(position // FRAME_SAMPLES)
        self._trim()

    def _trim(self) -> None:
        unneeded = self._finder.settled - self._quiet_from
        del self._quiet[:unneeded]
        self._quiet_from += unneeded


def split(
    samples: Samples, max_segment_s: float, search_s: float = _SEARCH_S
) -> list[tuple[int, int]]:
    """Pieces (start, end) in samples that cover `samples` in order, each exactly once.

    Cut where it is quietest within `search_s` before the limit. The last piece has at least 1 s
    unless the whole has less. O(n).
    """
    cutter = Cutter(CutOptions(segment_s=max_segment_s, vad="off"), search_s)
    cuts = [*cutter.feed(samples), *cutter.finish()]
    return [(cut.start, cut.start + len(cut.samples)) for cut in cuts]
