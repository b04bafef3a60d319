"""Sentences for the tiny checkpoint: text, what the synthesizer is given, context, split.

`sample` draws a template sentence or word salad in English or Chinese. A hash of the normalized
text puts one sentence in 20 in the split 'held_out'; a training sentence is never one of those.
"""

import random
import re
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Literal

from . import grammar_en, grammar_zh, hotwords

Language = Literal["English", "Chinese"]
LANGUAGES: tuple[Language, ...] = ("English", "Chinese")
Split = Literal["train", "held_out"]

SALAD_SHARE = 0.12  # of all sentences
HOTWORD_SHARE = 0.28  # of all sentences: a name in an invented spelling that the context lists
DISTRACTED_SHARE = 0.08  # of the others: a context that must change nothing
DISTRACTED_NAME_SHARE = 0.4  # of those of them that have a name in its default spelling
_SLOT = re.compile(r"\{(\w+)\}")
_ZH_PUNCTUATION = "，。？、！"
_SPOKEN_PUNCTUATION = {"，": ",", "。": ".", "？": "?", "、": ",", "！": "!"}


@dataclass(frozen=True)
class Sentence:
    """One utterance to be; `words` joined by ' ' (English) or '' (Chinese) is `text`."""

    text: str
    language: Language
    words: tuple[
        str, ...
    ]  # units: English words, Chinese characters; punctuation attached to the end
    spoken_units: tuple[
        str, ...
    ]  # what to synthesize for each unit (Chinese: pinyin with tone numbers)
    context: str = ""  # the system turn: terms, comma-separated
    hotword: str | None = None  # the invented spelling in `text` that only the context explains
    default_spelling: str | None = None  # what the hot word is without the context

    @property
    def spoken(self) -> str:
        return " ".join(self.spoken_units)


def sample(
    rng: random.Random, split: Split, language: Language | None = None, hotword: bool | None = None
) -> Sentence:
    """One sentence of the split; `hotword`: with (True) or without (False) an invented spelling."""
    chosen = rng.choice(LANGUAGES) if language is None else language
    while True:
        biased = rng.random() < HOTWORD_SHARE if hotword is None else hotword
        sentence = _sample_biased(rng, split, chosen) if biased else _sample_plain(rng, chosen)
        if hotwords.is_held_out(normalize(sentence.text)) == (split == "held_out"):
            return sentence


def with_default_spelling(sentence: Sentence, rng: random.Random | None = None) -> Sentence:
    """The same utterance with the default spelling; no context, or with `rng` distractors."""
    assert sentence.hotword is not None
    assert sentence.default_spelling is not None
    chinese = sentence.language == "Chinese"
    text = sentence.text.replace(sentence.hotword, sentence.default_spelling)
    words = _zh_units(text) if chinese else tuple(text.split(" "))
    names = grammar_zh.NAMES if chinese else grammar_en.NAMES
    avoid = frozenset(name for name in names if name in text)
    context = hotwords.context([], avoid, sentence.language, rng) if rng else ""
    return Sentence(text, sentence.language, words, sentence.spoken_units, context)


def normalize(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalnum())


def _sample_plain(rng: random.Random, language: Language) -> Sentence:
    names: list[str] = []
    if rng.random() < SALAD_SHARE:
        raw = _salad(rng, language)
    else:
        raw = _expand(_pick_template(rng, _templates(language)), language, rng, names)
    context = ""
    if rng.random() < (DISTRACTED_NAME_SHARE if names else DISTRACTED_SHARE):
        context = hotwords.context([], frozenset(names), language, rng)
    return build(raw, language, None, context)


def _sample_biased(rng: random.Random, split: Split, language: Language) -> Sentence:
    names: list[str] = []
    raw = _expand(_pick_template(rng, _name_templates(language)), language, rng, names)
    name = rng.choice(names)
    spelling = hotwords.invent(name, language, rng, split == "held_out")
    context = hotwords.context([spelling], frozenset(names), language, rng)
    return build(raw, language, {name: spelling}, context)


def _expand(template: str, language: Language, rng: random.Random, names: list[str]) -> str:
    """Fills slots, nested ones too; a name is drawn once only and recorded in `names`."""
    module = grammar_en if language == "English" else grammar_zh

    def fill(match: re.Match[str]) -> str:
        slot = match[1]
        if slot in module.GENERATORS:
            value = module.GENERATORS[slot](rng)
            while slot == "name" and value in names:
                value = module.GENERATORS[slot](rng)
            if slot == "name":
                names.append(value)
            return value
        return _SLOT.sub(fill, rng.choice(module.SLOTS[slot]))

    return _SLOT.sub(fill, template)


def build(
    raw: str, language: Language, respelled: dict[str, str] | None = None, context: str = ""
) -> Sentence:
    """A sentence of an expanded template ('^': a spelled character; blanks part Chinese words)."""
    respelled = respelled or {}
    default, hotword = next(iter(respelled.items()), (None, None))
    if language == "Chinese":
        spoken = _zh_spoken(raw)
        text = raw.replace("^", "").replace(" ", "")
        for name, spelling in respelled.items():
            text = text.replace(name, spelling)
        return Sentence(text, language, _zh_units(text), spoken, context, hotword, default)
    raw = raw[0].upper() + raw[1:]
    units = raw.split(" ")
    words = tuple(_respelled(u.replace("^", ""), respelled) for u in units)
    spoken = tuple(map(grammar_en.speak_unit, units))
    return Sentence(" ".join(words), language, words, spoken, context, hotword, default)


def _respelled(word: str, respelled: dict[str, str]) -> str:
    for name, spelling in respelled.items():
        if word.rstrip(".,?:") == name:
            return word.replace(name, spelling)
    return word


def _zh_units(text: str) -> tuple[str, ...]:
    """One unit a character, punctuation attached to the one before."""
    return tuple(re.findall(rf"[^{_ZH_PUNCTUATION}][{_ZH_PUNCTUATION}]*", text))


def _zh_spoken(raw: str) -> tuple[str, ...]:
    spoken: list[str] = []
    table = pinyin_table()
    for word in raw.split():
        if word in _SPOKEN_PUNCTUATION:
            spoken[-1] += _SPOKEN_PUNCTUATION[word]
        elif word[0] == "^":
            spoken.extend(table["零一二三四五六七八九"[int(word[1])]])
        elif word in table:
            spoken.extend(table[word])
        elif word in grammar_zh.NAMES:
            spoken.extend(grammar_zh.NAMES[word])
        else:  # numbers
            spoken.extend(table[c][0] for c in word)
    return tuple(spoken)


def _salad(rng: random.Random, language: Language) -> str:
    words = rng.sample(salad_words(language), rng.randint(3, 8))
    if language == "Chinese":
        return " ".join(words) + " 。"
    return " ".join(words) + "."


def _pick_template(rng: random.Random, templates: tuple[str, ...]) -> str:
    """Templates with more slots come oftener: they have far more sentences to show."""
    return rng.choices(templates, cum_weights=_cumulative_weights(templates))[0]


@cache
def _cumulative_weights(templates: tuple[str, ...]) -> tuple[float, ...]:
    return tuple(accumulate(max(0.4, min(len(_SLOT.findall(t)), 3)) for t in templates))


@cache
def pinyin_table() -> dict[str, tuple[str, ...]]:
    """Word → pinyin syllables with tone numbers, from pinyin.tsv."""
    rows = (Path(__file__).parent / "pinyin.tsv").read_text("utf-8").splitlines()
    return {word: tuple(syllables.split()) for word, syllables in (row.split("\t") for row in rows)}


@cache
def _templates(language: Language) -> tuple[str, ...]:
    return grammar_en.TEMPLATES if language == "English" else grammar_zh.TEMPLATES


@cache
def _name_templates(language: Language) -> tuple[str, ...]:
    return tuple(t for t in _templates(language) if "{name}" in t)


@cache
def salad_words(language: Language) -> tuple[str, ...]:
    """The vocabulary without names, numbers and words that another one sounds like."""
    if language == "Chinese":
        return tuple(sorted(w for w in pinyin_table() if len(w) > 1))
    parts = [*grammar_en.TEMPLATES, *(v for vs in grammar_en.SLOTS.values() for v in vs)]
    words = {w.strip(".,?:") for part in parts for w in _SLOT.sub(" ", part).split()}
    proper = {
        name for slot in ("city", "day", "month", "language") for name in grammar_en.SLOTS[slot]
    }
    words = {w if w in proper else w.lower() for w in words}
    words -= grammar_en.NOT_IN_SALAD | grammar_en.NUMBER_WORDS | {""}
    return tuple(sorted(w for w in words if "'" not in w))


def all_characters() -> frozenset[str]:
    """Every Chinese character and full-width mark that a text or a context can hold."""
    names = "".join("".join(c) for c in grammar_zh.SYLLABLES.values())
    return frozenset("".join(pinyin_table()) + names + _ZH_PUNCTUATION)
