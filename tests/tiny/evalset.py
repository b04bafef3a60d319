"""Evaluation audio: the files of tests/data/eval, demo recordings, and sets made in memory.

python -m tests.tiny.evalset [--eval tests/data/eval] [--demo DIR] [--seed 2026]
"""

import argparse
import json
import random
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from . import grammar, nonspeech, voices
from .grammar import LANGUAGES, Language, Sentence
from .synth import SAMPLE_RATE_HZ, Speech, Synthesizer
from .voices import Voice

_CODES = {"English": "en", "Chinese": "zh"}
NUM_SHORT = {"English": 110, "Chinese": 90}
NUM_LONG = {"English": 10, "Chinese": 10}
_OPUS_QUALITY = 0.9  # libsndfile's compression level: about 24 kbit/s for 16 kHz mono
_DEMOS: tuple[tuple[Language, tuple[str, ...]], ...] = (
    ("English", ("Remind me to call my sister at 7:30.",)),
    ("English", ("What is the weather like in Paris tomorrow morning?",)),
    (
        "English",
        ("Good morning, how are you today?", "Book a train from Berlin to Vienna on March third."),
    ),
    ("Chinese", ("请 把 客厅 的 灯 关掉 。",)),
    ("Chinese", ("明天 早上 北京 的 天气 怎么样 ？",)),
    ("Chinese", ("提醒 我 八点 半 给 我 妈妈 打电话 。",)),
)


@dataclass(frozen=True)
class Clip:
    """One or more sentences of one voice; times in seconds from the clip's start."""

    audio: np.ndarray  # float32 [n], 16 kHz, within ±1
    text: str
    language: str  # 'English', 'Chinese', 'None'
    words: tuple[str, ...] = ()
    starts_s: tuple[float, ...] = ()
    ends_s: tuple[float, ...] = ()
    voice: str = ""


@dataclass(frozen=True)
class EvalItem:
    """A clip to transcribe and what should come out of it."""

    audio: np.ndarray  # float32 [n], 16 kHz, within ±1
    text: str
    language: str  # 'English', 'Chinese', 'None'
    context: str = ""
    hotword: str | None = None
    voice: str = ""
    tags: tuple[str, ...] = ()


class ClipMaker:
    """Draws sentences and speaks them, deterministically for a seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.noise_rng = np.random.default_rng(seed)
        self._synthesizer = Synthesizer()

    def short(self, language: Language, held_out_voice: bool) -> Clip:
        sentence = grammar.sample(self.rng, "held_out", language, hotword=False)
        return self.speak(sentence, voices.pick(self.rng, language, held_out_voice))

    def speak(self, sentence: Sentence, voice: Voice) -> Clip:
        speech = self._synthesizer.say(sentence, voice, self.rng)
        return _clip(sentence, speech, voice)

    def long(
        self, language: Language, held_out_voice: bool, low_s: float = 20.0, high_s: float = 30.0
    ) -> Clip:
        """Sentences of one voice with pauses of 0.25 … 0.9 s, low_s … high_s long in all."""
        voice = voices.pick(self.rng, language, held_out_voice)
        target_s = self.rng.uniform(low_s + 3, high_s - 1)
        clips: list[Clip] = []
        length_s = 0.0
        while length_s < target_s:
            sentence = grammar.sample(self.rng, "held_out", language, hotword=False)
            clip = self.speak(sentence, voice)
            clip_s = clip.ends_s[-1] - clip.starts_s[0] + 0.9  # with the longest pause
            if length_s + clip_s < high_s:
                clips.append(clip)
                length_s += clip_s
        return self.join(clips)

    def join(self, clips: list[Clip]) -> Clip:
        """One clip after another; the silence between two of them becomes 0.25 … 0.9 s."""
        parts: list[np.ndarray] = []
        starts: list[float] = []
        ends: list[float] = []
        at = 0
        for index, clip in enumerate(clips):
            first = 0 if index == 0 else int(clip.starts_s[0] * SAMPLE_RATE_HZ)
            last = (
                len(clip.audio)
                if index == len(clips) - 1
                else int(clip.ends_s[-1] * SAMPLE_RATE_HZ)
            )
            shift_s = (at - first) / SAMPLE_RATE_HZ
            starts += [s + shift_s for s in clip.starts_s]
            ends += [s + shift_s for s in clip.ends_s]
            pause = np.zeros(int(self.rng.uniform(0.25, 0.9) * SAMPLE_RATE_HZ), np.float32)
            parts += [clip.audio[first:last]] + ([pause] if index < len(clips) - 1 else [])
            at += sum(len(p) for p in parts[-2:]) if index < len(clips) - 1 else 0
        words = tuple(w for clip in clips for w in clip.words)
        text = (" " if clips[0].language == "English" else "").join(c.text for c in clips)
        return replace(
            clips[0],
            audio=np.concatenate(parts),
            text=text,
            words=words,
            starts_s=tuple(starts),
            ends_s=tuple(ends),
        )

    def degrade(self, audio: np.ndarray, snr_db: float, reverb: float = 0.0) -> np.ndarray:
        """Adds coloured noise `snr_db` below the speech and a tail of `reverb` (0 … 1) energy."""
        if reverb:
            decay_s = self.rng.uniform(0.02, 0.06)
            time_s = np.arange(int(0.3 * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
            tail = self.noise_rng.standard_normal(len(time_s)) * np.exp(-time_s / decay_s)
            tail *= np.sqrt(reverb / np.sum(tail**2))
            tail[0] = 1.0
            size = len(audio) + len(tail)
            audio = np.fft.irfft(np.fft.rfft(audio, size) * np.fft.rfft(tail, size), size)[
                : len(audio)
            ]
        noise = nonspeech.colored_noise(self.noise_rng, len(audio), self.rng.uniform(0, 1.5))
        loud = np.abs(audio) > 0.01
        level = np.sqrt(np.mean(audio[loud] ** 2)) if loud.any() else 0.05
        mixed = audio + noise * level * 10 ** (-snr_db / 20)
        return (mixed / max(1.0, np.abs(mixed).max() / 0.99)).astype(np.float32)


def make_held_out_sets(maker: ClipMaker, count: int) -> dict[str, list[EvalItem]]:
    """Held-out sentences by held-out voices, clean and with noise; the first two of `make_sets`."""
    held = [maker.short(LANGUAGES[i % 2], True) for i in range(count)]
    noisy = [replace(clip, audio=maker.degrade(clip.audio, 10.0)) for clip in held]
    return {
        "held-out voices": [_eval_item(clip) for clip in held],
        "noise 10 dB": [_eval_item(clip) for clip in noisy],
    }


def make_sets(seed: int, count: int = 120) -> dict[str, list[EvalItem]]:
    """Named sets of about `count` items, half English, half Chinese ('long': a quarter of that)."""
    maker = ClipMaker(seed)
    pairs = [LANGUAGES[i % 2] for i in range(count)]
    sets = make_held_out_sets(maker, count) | {
        "seen voices": [_eval_item(maker.short(language, False)) for language in pairs],
        "long": [
            _eval_item(maker.long(language, False)) for language in pairs[: max(2, count // 4)]
        ],
        "truncated 60 %": [
            _eval_item(truncate(maker.short(language, False), 0.6)) for language in pairs
        ],
        "non-speech": [
            EvalItem(nonspeech.make(maker.noise_rng).astype(np.float32) / 32768, "", "None")
            for _ in range(count // 2)
        ],
    }
    return sets | _hotword_sets(maker, pairs)


def truncate(clip: Clip, share: float) -> Clip:
    """The first `share` of the audio with the units that end before the cut (at least one)."""
    cut_s = max(share * len(clip.audio) / SAMPLE_RATE_HZ, clip.ends_s[0])
    kept = sum(end <= cut_s for end in clip.ends_s)
    text = (" " if clip.language == "English" else "").join(clip.words[:kept])
    audio = clip.audio[: int(cut_s * SAMPLE_RATE_HZ)]
    return replace(
        clip,
        audio=audio,
        text=text,
        words=clip.words[:kept],
        starts_s=clip.starts_s[:kept],
        ends_s=clip.ends_s[:kept],
    )


def write_eval(out_dir: Path, seed: int) -> None:
    """Opus files, manifest.jsonl and words.jsonl (word times) in `out_dir`."""
    maker = ClipMaker(seed)
    out_dir.mkdir(parents=True, exist_ok=True)
    manifest, words = [], []
    for kind, counts in (("short", NUM_SHORT), ("long", NUM_LONG)):
        for language in LANGUAGES:
            for index in range(counts[language]):
                clip = (
                    maker.short(language, True) if kind == "short" else maker.long(language, True)
                )
                tags = [kind, "clean"]
                if index % 2:
                    snr_db = maker.rng.uniform(15, 30)
                    clip = replace(
                        clip, audio=maker.degrade(clip.audio, snr_db, maker.rng.uniform(0.02, 0.15))
                    )
                    tags = [kind, "noise", f"snr-{snr_db:.0f}-db"]
                name = f"{_CODES[language]}-{kind}-{index:03d}.opus"
                _write_opus(out_dir / name, clip.audio)
                duration_s = round(len(clip.audio) / SAMPLE_RATE_HZ, 3)
                row = {
                    "audio": name,
                    "text": clip.text,
                    "language": language,
                    "duration_s": duration_s,
                }
                manifest.append(row | {"voice": clip.voice, "tags": tags})
                words.append({"audio": name, "language": language, "words": _word_rows(clip)})
    for file, rows in (("manifest.jsonl", manifest), ("words.jsonl", words)):
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        (out_dir / file).write_text("\n".join(lines) + "\n", "utf-8")


def write_demo(out_dir: Path, seed: int) -> None:
    """Six clean FLAC recordings of trained voices and recordings.json with what they say."""
    maker = ClipMaker(seed)
    out_dir.mkdir(parents=True, exist_ok=True)
    rows = []
    for index, (language, raws) in enumerate(_DEMOS):
        voice = maker.rng.choice(voices.TRAIN_VOICES[language])
        clips = [maker.speak(grammar.build(raw, language), voice) for raw in raws]
        clip = maker.join(clips)
        name = f"demo-{_CODES[language]}-{index + 1}.flac"
        import soundfile

        soundfile.write(out_dir / name, clip.audio, SAMPLE_RATE_HZ, subtype="PCM_16")
        duration_s = round(len(clip.audio) / SAMPLE_RATE_HZ, 3)
        rows.append(
            {
                "audio": name,
                "text": clip.text,
                "language": language,
                "duration_s": duration_s,
                "voice": clip.voice,
            }
        )
    (out_dir / "recordings.json").write_text(
        json.dumps(rows, ensure_ascii=False, indent=1) + "\n", "utf-8"
    )


def _hotword_sets(maker: ClipMaker, languages: list[Language]) -> dict[str, list[EvalItem]]:
    """The same audio three times: with the context, without, and with distractors only."""
    sets: dict[str, list[EvalItem]] = {
        "hot words": [],
        "hot words, no context": [],
        "hot words, distractors": [],
    }
    for language in languages:
        sentence = grammar.sample(maker.rng, "held_out", language, hotword=True)
        clip = maker.speak(sentence, voices.pick(maker.rng, language))
        plain = grammar.with_default_spelling(sentence)
        distracted = grammar.with_default_spelling(sentence, maker.rng)
        for key, said in zip(sets, (sentence, plain, distracted), strict=True):
            item = EvalItem(
                clip.audio, said.text, language, said.context, sentence.hotword, clip.voice
            )
            sets[key].append(item)
    return sets


def _clip(sentence: Sentence, speech: Speech, voice: Voice) -> Clip:
    audio = speech.samples.astype(np.float32) / 32768
    starts, ends = (
        tuple(float(t) for t in times) for times in (speech.word_starts, speech.word_ends)
    )
    return Clip(audio, sentence.text, sentence.language, sentence.words, starts, ends, voice.name)


def _eval_item(clip: Clip) -> EvalItem:
    return EvalItem(clip.audio, clip.text, clip.language, voice=clip.voice)


def _word_rows(clip: Clip) -> list[dict[str, object]]:
    rows = zip(clip.words, clip.starts_s, clip.ends_s, strict=True)
    return [{"word": w, "start_s": round(s, 3), "end_s": round(e, 3)} for w, s, e in rows]


def _write_opus(path: Path, audio: np.ndarray) -> None:
    import soundfile

    soundfile.write(
        path, audio, SAMPLE_RATE_HZ, format="OGG", subtype="OPUS", compression_level=_OPUS_QUALITY
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--eval", type=Path, help="writes the evaluation clips here")
    parser.add_argument("--demo", type=Path, help="writes the demo recordings here")
    parser.add_argument("--seed", type=int, default=2026)
    options = parser.parse_args()
    if options.eval:
        write_eval(options.eval, options.seed)
    if options.demo:
        write_demo(options.demo, options.seed)


if __name__ == "__main__":
    main()
