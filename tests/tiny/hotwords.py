"""Context biasing: invented spellings of names, and the contexts that list them.

A name is always pronounced the same. Without a context it has its default spelling; a context
that lists an invented spelling makes that spelling the right text. Spellings are split by hash,
so that those of the evaluation were never trained on.
"""

import random
import zlib

from . import grammar_en, grammar_zh

# Letters and groups that sound alike; the longest key that matches is used, at most once per place.
RESPELLINGS: dict[str, tuple[str, ...]] = {
    "ck": ("k", "kk", "cque"), "qu": ("kw", "qw"), "ee": ("i", "ea"), "ph": ("f", "ff"),
    "a": ("ah", "aa"), "b": ("bb", "bh"), "c": ("k", "ck"), "d": ("dd", "dh"), "e": ("eh", "ei"),
    "f": ("ph", "ff"), "g": ("gg", "gh"), "i": ("y", "ee", "ie", "ih"), "j": ("dj", "jh"),
    "k": ("c", "ck", "kh", "q"), "l": ("ll", "lh"), "m": ("mm",), "n": ("nn", "gn"),
    "o": ("oh", "oe"),
    "p": ("pp",), "r": ("rr", "rh"), "s": ("ss", "z", "sz"), "t": ("tt", "th"), "u": ("oo", "uh"),
    "v": ("vv", "w", "vh"), "w": ("wh", "v"), "x": ("ks", "cks"), "y": ("i", "ie"),
    "z": ("zz", "s", "ts"),
}  # fmt: skip
HELD_OUT_SHARE = 20  # one in so many spellings and sentences is held out


def is_held_out(text: str) -> bool:
    """The split of a spelling or a normalized text: a hash, the same in every process."""
    return zlib.crc32(text.lower().encode()) % HELD_OUT_SHARE == 0


def respell(name: str, rng: random.Random) -> str:
    """An invented spelling of an English name, never one of the default spellings."""
    while True:
        lower, out, at = name.lower(), "", 0
        while at < len(lower):
            size = 2 if lower[at : at + 2] in RESPELLINGS else 1
            part = lower[at : at + size]
            if rng.random() < 0.3 and part in RESPELLINGS and not (out and out[-1] == part[0]):
                choice = rng.choice(RESPELLINGS[part])
                part = choice if out or len(choice) == 1 or choice[0] != choice[1] else part
            out += part
            at += size
        if rng.random() < 0.2:
            out += rng.choice("eh")
        spelling = out.capitalize()
        if spelling not in grammar_en.NAMES and len(spelling) <= len(name) + 4:
            return spelling


def _homophone(name: str, rng: random.Random) -> str:
    """Other characters with the pinyin of the Chinese name."""
    while True:
        spelling = "".join(rng.choice(grammar_zh.SYLLABLES[s]) for s in grammar_zh.NAMES[name])
        if spelling != name:
            return spelling


def invent(name: str, language: str, rng: random.Random, held_out: bool) -> str:
    """An invented spelling on the wanted side of the split; for a few Chinese names it has none."""
    make = respell if language == "English" else _homophone
    spelling = make(name, rng)
    for _ in range(400):
        if is_held_out(spelling) == held_out:
            break
        spelling = make(name, rng)
    return spelling


def _distractor(avoid: frozenset[str], language: str, rng: random.Random) -> str:
    """A term, a name or an invented spelling that sounds like none of the names in `avoid`."""
    if language == "English":
        if rng.random() < 0.25:
            return rng.choice(grammar_en.TERMS)
        name = rng.choice([n for n in grammar_en.NAMES if n not in avoid])
    else:
        if rng.random() < 0.25:
            return rng.choice(grammar_zh.TERMS)
        sounds = {syllable for name in avoid for syllable in grammar_zh.NAMES[name]}
        name = rng.choice(grammar_zh.NAME_LIST)
        while sounds.intersection(grammar_zh.NAMES[name]):
            name = rng.choice(grammar_zh.NAME_LIST)
    return name if rng.random() < 0.4 else invent(name, language, rng, held_out=False)


def context(listed: list[str], avoid: frozenset[str], language: str, rng: random.Random) -> str:
    """The `listed` spellings among 0 … 6 distractors (at least one if nothing is listed)."""
    terms = list(listed)
    for _ in range(rng.randint(0 if listed else 1, 6)):
        term = _distractor(avoid, language, rng)
        if term not in terms:
            terms.append(term)
    rng.shuffle(terms)
    return ("、" if language == "Chinese" and rng.random() < 0.3 else ", ").join(terms)
