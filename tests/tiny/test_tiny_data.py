"""The tiny checkpoint's data: splits, tokenizer prefixes, word times, evaluation files."""

# ruff: noqa: PT018

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.tiny import grammar, hotwords, nonspeech, voices
from tests.tiny.grammar import LANGUAGES
from tests.tiny.synth import SAMPLE_RATE_HZ, Synthesizer, resample

EVAL_DIR = Path(__file__).parents[1] / "data" / "eval"


@pytest.fixture(scope="module")
def synthesizer() -> Synthesizer:
    try:
        return Synthesizer()
    except OSError as error:
        pytest.skip(f"espeak-ng's library is not here ({error}); set TINY_SPEECH_PREFIX")


@pytest.fixture(scope="module")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.tiny.tokenizer import build_processor

    out_dir = tmp_path_factory.mktemp("processor")
    build_processor(out_dir)
    return out_dir


def _sentences(
    count: int, seed: int = 1, split: grammar.Split = "train"
) -> Iterator[grammar.Sentence]:
    rng = random.Random(seed)
    return (grammar.sample(rng, split) for _ in range(count))


def test_units_join_to_the_text_and_have_something_to_say() -> None:
    for sentence in _sentences(3000):
        joint = " " if sentence.language == "English" else ""
        assert joint.join(sentence.words) == sentence.text
        assert len(sentence.spoken_units) == len(sentence.words)
        assert all(sentence.spoken_units) and sentence.spoken.isascii()
        assert not set("{}^") & set(sentence.text)


def test_samples_depend_on_the_seed_alone_not_on_the_process() -> None:
    code = (
        "from tests.tiny.test_tiny_data import _sentences; print([s.text for s in _sentences(200)])"
    )
    root = Path(__file__).parents[2]
    other = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert other.stdout.strip() == str([s.text for s in _sentences(200)])


def test_training_never_holds_a_held_out_sentence_or_spelling() -> None:
    train = list(_sentences(4000))
    held_out = list(_sentences(300, split="held_out"))
    assert not {s.text for s in train} & {s.text for s in held_out}
    english = [s for s in train if s.language == "English" and s.hotword]
    assert not any(hotwords.is_held_out(s.hotword or "") for s in english)
    assert all(
        hotwords.is_held_out(s.hotword or "")
        for s in held_out
        if s.hotword and s.language == "English"
    )


def test_sentences_are_diverse() -> None:
    texts = [s.text for s in _sentences(20_000)]
    assert len(set(texts)) > 0.8 * len(texts)


def test_a_hot_word_is_in_the_text_and_listed_once_in_the_context() -> None:
    biased = [s for s in _sentences(4000) if s.hotword]
    assert abs(len(biased) / 4000 - grammar.HOTWORD_SHARE) < 0.03
    for sentence in biased:
        terms = sentence.context.replace("、", ", ").split(", ")
        assert terms.count(sentence.hotword or "") == 1
        assert (sentence.hotword or "") in sentence.text
        plain = grammar.with_default_spelling(sentence)
        assert (sentence.default_spelling or "") in plain.text and len(plain.words) == len(
            sentence.words
        )


def test_held_out_voices_are_no_training_voices() -> None:
    for language in LANGUAGES:
        variants = {v.name.split("+")[-1] for v in voices.TRAIN_VOICES[language]}
        assert not variants & {v.name.split("+")[-1] for v in voices.HELD_OUT_VOICES[language]}


def test_tokens_of_a_prefix_of_units_are_a_prefix_of_the_tokens(tokenizer_dir: Path) -> None:
    from tests.tiny.tokenizer import BASE_SIZE, UnitTokenizer

    tokenizer = UnitTokenizer(tokenizer_dir)
    for sentence in _sentences(1500):
        units = tokenizer.encode_units(sentence.words, sentence.language)
        assert [t for unit in units for t in unit] == tokenizer.encode(sentence.text)
        joint = " " if sentence.language == "English" else ""
        follower = tokenizer.encode_units(sentence.words, sentence.language, follows=True)
        both = tokenizer.encode(sentence.text + joint + sentence.text)
        assert [t for unit in units + follower for t in unit] == both
        assert max(both) < BASE_SIZE


def test_transformers_loads_the_processor_and_reads_its_output(tokenizer_dir: Path) -> None:
    from transformers import AutoProcessor

    from tests.tiny.tokenizer import ADDED_TOKENS, VOCAB_SIZE, UnitTokenizer

    processor = AutoProcessor.from_pretrained(tokenizer_dir)
    assert len(processor.tokenizer) == VOCAB_SIZE
    assert processor.tokenizer.convert_tokens_to_ids(list(ADDED_TOKENS)) == list(
        ADDED_TOKENS.values()
    )
    request = processor.apply_transcription_request(
        [np.zeros(SAMPLE_RATE_HZ, np.float32)], language="English", prompt="Zorveck, Milo"
    )
    prompt = processor.tokenizer.decode(request["input_ids"][0])
    assert prompt.startswith(
        "<|im_start|>system\nZorveck, Milo<|im_end|>\n<|im_start|>user\n<|audio_start|>"
    )
    assert prompt.endswith(
        "<|audio_end|><|im_end|>\n<|im_start|>assistant\nlanguage English<asr_text>"
    )
    tokenizer = UnitTokenizer(tokenizer_dir)
    output = tokenizer.encode("language Chinese<asr_text>你好，今天。<|im_end|>")
    assert processor.decode(output, return_format="parsed") == {
        "language": "Chinese",
        "transcription": "你好，今天。",
    }


def test_word_times_are_in_order_and_cover_the_speech(synthesizer: Synthesizer) -> None:
    rng = random.Random(4)
    for sentence in _sentences(60, seed=4):
        voice = voices.pick(rng, sentence.language)
        speech = synthesizer.say(sentence, voice, rng)
        assert speech.samples.dtype == np.int16
        assert len(speech.word_starts) == len(speech.word_ends) == len(sentence.words)
        assert np.all(np.diff(speech.word_ends) >= 0) and np.all(
            speech.word_starts <= speech.word_ends
        )
        assert speech.word_starts[0] >= 0.05 - 1e-6
        loud = np.flatnonzero(np.abs(speech.samples.astype(int)) > 200) / SAMPLE_RATE_HZ
        assert abs(loud[-1] - speech.word_ends[-1]) < 0.1
        assert abs(loud[0] - speech.word_starts[0]) < 0.1


def test_pauses_between_words_are_quiet(synthesizer: Synthesizer) -> None:
    sentence = grammar.build("Good morning, how are you today?", "English")
    speech = synthesizer.say(sentence, voices.TRAIN_VOICES["English"][0], random.Random(1))
    start, end = (int(t * SAMPLE_RATE_HZ) for t in (speech.word_ends[1], speech.word_starts[2]))
    assert end - start > 0.08 * SAMPLE_RATE_HZ
    assert np.abs(speech.samples[start + 80 : end - 80].astype(int)).max() < 300


def test_resampling_keeps_a_tone() -> None:
    time_s = np.arange(22_050) / 22_050
    out = resample(np.round(8000 * np.sin(2 * np.pi * 1000 * time_s)).astype(np.int16), 22_050)
    wanted = 8000 * np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)
    assert len(out) == 16_000
    assert np.abs(out - wanted)[400:-400].max() < 40


def test_non_speech_is_finite_and_in_range() -> None:
    rng = np.random.default_rng(3)
    for _ in range(60):
        sound = nonspeech.make(rng)
        assert sound.dtype == np.int16 and 0.3 <= len(sound) / SAMPLE_RATE_HZ <= 8


def test_producers_send_consistent_blocks(synthesizer: Synthesizer, tokenizer_dir: Path) -> None:
    from tests.tiny.corpus import MAX_SAMPLES, start_producers

    with start_producers(1, 5, tokenizer_dir, block_items=24) as producers:
        blocks = [producers.next_block() for _ in range(2)]
    for block in blocks:
        for index in range(len(block)):
            item = block.item(index)
            assert 0 < len(item.audio) <= MAX_SAMPLES
            if item.language:
                assert item.unit_tokens[-1] == len(item.tokens)
                assert len(item.unit_ends) == len(item.unit_tokens)
                assert np.all(np.diff(item.unit_ends) >= 0) and item.unit_ends[-1] <= len(
                    item.audio
                )
            else:
                assert not len(item.tokens) and not len(item.unit_ends)


def test_manifest_matches_the_files() -> None:
    soundfile = pytest.importorskip("soundfile")
    if not (EVAL_DIR / "manifest.jsonl").exists():
        pytest.skip(f"{EVAL_DIR} is not generated (python -m tests.tiny.evalset --eval …)")
    rows, words = (
        [json.loads(line) for line in (EVAL_DIR / name).read_text("utf-8").splitlines()]
        for name in ("manifest.jsonl", "words.jsonl")
    )
    assert {row["audio"] for row in rows} == {path.name for path in EVAL_DIR.glob("*.opus")}
    for row, timed in zip(rows, words, strict=True):
        assert row["audio"] == timed["audio"]
        assert abs(soundfile.info(EVAL_DIR / row["audio"]).duration - row["duration_s"]) < 0.02
        joint = " " if row["language"] == "English" else ""
        assert joint.join(word["word"] for word in timed["words"]) == row["text"]
        ends = [word["end_s"] for word in timed["words"]]
        assert ends == sorted(ends) and ends[-1] <= row["duration_s"]
