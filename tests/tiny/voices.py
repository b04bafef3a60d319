"""Voices of the tiny checkpoint's speech: espeak-ng variants × accents, and flite for English.

Held-out voices are variants that training never hears, in accents that it does.
"""

# ruff: noqa: E501, SIM905

import random
from dataclasses import dataclass
from typing import Literal

Engine = Literal["espeak", "flite"]

ACCENTS = (
    "en",
    "en-US",
    "en-GB-x-rp",
    "en-029",
    "en-US-nyc",
)  # not Scottish: too far from the others
MANDARIN = (
    "sit/cmn-Latn-pinyin"  # plain cmn reads characters as English letter names in Debian's build
)
FLITE_SHARE = 0.22  # of English training utterances; flite is slower than espeak
FLITE_NAMES = ("awb", "rms", "kal16", "slt")

# Left out: whisper, croak, Demonic, UniRobot, robosoft*, anikaRobot and others that a person finds hard to follow.
_TRAIN_VARIANTS = (
    "Alex Andrea Annie Denis Diogo Gene Gene2 Henrique Hugo Jacky Lee Mario Michael Mike Nguyen anika announcer antonio "
    "aunty benjamin boris caleb david ed edward f1 f3 f4 f5 grandma grandpa gustave iven iven2 iven3 john klatt klatt2 "
    "klatt3 m1 m2 m4 m5 m6 m7 m8 max michel miguel norbert pablo paul pedro quincy rob robert sandro shelby steph steph3 travis zac"
).split()
_HELD_OUT_VARIANTS = "f2 m3 Andy Alicia linda steph2 victor adam belinda marcelo".split()


@dataclass(frozen=True)
class Voice:
    """A voice of one engine; utterances of it still vary in rate, pitch, range and word gap."""

    name: str  # unique, e.g. 'en-US+f3', 'cmn+m1', 'flite-slt'
    engine: Engine
    handle: str  # what the engine calls it


def _espeak(languages: tuple[str, ...], variants: list[str]) -> tuple[Voice, ...]:
    return tuple(
        Voice(
            f"{path.rsplit('/')[-1].replace('cmn-Latn-pinyin', 'cmn')}+{variant}",
            "espeak",
            f"{path}+{variant}",
        )
        for path in languages
        for variant in variants
    )


_ENGLISH = tuple(f"gmw/{accent}" for accent in ACCENTS)
FLITE_VOICES = tuple(Voice(f"flite-{name}", "flite", name) for name in FLITE_NAMES)
TRAIN_VOICES = {
    "English": _espeak(_ENGLISH, _TRAIN_VARIANTS) + FLITE_VOICES,
    "Chinese": _espeak((MANDARIN,), _TRAIN_VARIANTS),
}
HELD_OUT_VOICES = {
    "English": _espeak(_ENGLISH, _HELD_OUT_VARIANTS),
    "Chinese": _espeak((MANDARIN,), _HELD_OUT_VARIANTS),
}


def pick(rng: random.Random, language: str, held_out: bool = False) -> Voice:
    """A random voice; flite gets FLITE_SHARE of the English ones of training."""
    if held_out:
        return rng.choice(HELD_OUT_VOICES[language])
    if language == "English" and rng.random() < FLITE_SHARE:
        return rng.choice(FLITE_VOICES)
    voices = TRAIN_VOICES[language]
    return rng.choice(voices[: -len(FLITE_VOICES)] if language == "English" else voices)
