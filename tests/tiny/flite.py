"""flite through ctypes: samples and word times of one text (segment ends of its utterance)."""

import ctypes as c

import numpy as np

from .espeak import Spoken

_LAST_SEGMENT_END = b"R:Token.daughtern.R:SylStructure.daughtern.daughtern.R:Segment.end"
_FIRST_SEGMENT_BEFORE = b"R:Token.daughter.R:SylStructure.daughter.daughter.R:Segment.p.end"


class _Wave(c.Structure):
    _fields_ = [
        ("type", c.c_char_p),
        ("sample_rate", c.c_int),
        ("num_samples", c.c_int),
        ("num_channels", c.c_int),
        ("samples", c.POINTER(c.c_short)),
    ]


def _declare(lib: c.CDLL) -> None:
    pointer = c.c_void_p
    for name, result, arguments in (
        ("flite_init", c.c_int, ()),
        ("flite_synth_text", pointer, (c.c_char_p, pointer)),
        ("utt_wave", c.POINTER(_Wave), (pointer,)),
        ("utt_relation", pointer, (pointer, c.c_char_p)),
        ("relation_head", pointer, (pointer,)),
        ("item_next", pointer, (pointer,)),
        ("flite_ffeature_float", c.c_float, (pointer, c.c_char_p)),
        ("delete_utterance", None, (pointer,)),
        ("feat_set_float", None, (pointer, c.c_char_p, c.c_float)),
    ):
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments


class Flite:
    """`voices` maps a name (awb, rms, …) to the library that registers it."""

    def __init__(self, library: c.CDLL, voices: dict[str, c.CDLL]) -> None:
        self._lib = library
        _declare(library)
        library.flite_init()
        self._voices: dict[str, int] = {}
        for name, voice_library in voices.items():
            register = getattr(voice_library, f"register_cmu_us_{name}")
            register.restype, register.argtypes = c.c_void_p, (c.c_void_p,)
            self._voices[name] = register(None)

    def say(self, tokens: tuple[str, ...], voice: str, stretch: float) -> Spoken:
        """Speaks ' '.join(tokens); `stretch` > 1 is slower."""
        # struct cst_voice: name, features, …
        features = c.cast(self._voices[voice], c.POINTER(c.c_void_p))[1]
        self._lib.feat_set_float(features, b"duration_stretch", stretch)
        utterance = self._lib.flite_synth_text(" ".join(tokens).encode(), self._voices[voice])
        try:
            wave = self._lib.utt_wave(utterance).contents
            samples = np.ctypeslib.as_array(wave.samples, (wave.num_samples,)).copy()
            starts, ends = self._token_times(utterance, len(tokens), wave.sample_rate)
            return Spoken(samples, wave.sample_rate, starts, ends)
        finally:
            self._lib.delete_utterance(utterance)

    def _token_times(
        self, utterance: int, num_tokens: int, sample_rate_hz: int
    ) -> tuple[np.ndarray, np.ndarray]:
        starts = np.full(num_tokens, -1, np.int64)
        ends = np.full(num_tokens, -1, np.int64)
        token = self._lib.relation_head(self._lib.utt_relation(utterance, b"Token"))
        for index in range(num_tokens):
            if not token:
                break
            start_s = self._lib.flite_ffeature_float(token, _FIRST_SEGMENT_BEFORE)
            end_s = self._lib.flite_ffeature_float(token, _LAST_SEGMENT_END)
            if end_s > 0:
                starts[index], ends[index] = (
                    round(start_s * sample_rate_hz),
                    round(end_s * sample_rate_hz),
                )
            token = self._lib.item_next(token)
        return starts, ends
