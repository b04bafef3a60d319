"""The shape of a checkpoint, read from its folder's config.json, in either published layout.

The native layout (transformers 5.13 and later) has `audio_config` and `text_config` at the top;
the original one keeps the same under `thinker_config`, among fields this model never uses
(M-RoPE sections, experts, `max_source_positions`). No torch here: the scheduler needs the token
arithmetic and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Layout = Literal["native", "original"]

HOP_SAMPLES = 160  # one mel frame per 10 ms at 16 kHz
MIN_SAMPLES = 8_000  # shorter clips are zero-padded to half a second
CHUNK_FRAMES = 100  # the convolutions see one second at a time
TOKENS_PER_CHUNK = 13  # what a full second becomes after three stride-2 convolutions


class CheckpointError(ValueError):
    """A checkpoint folder that cannot be served; the message names the file and the key."""


@dataclass(frozen=True, slots=True)
class AudioConfig:
    """The audio tower: three convolutions, then layers that attend inside windows."""

    num_mel_bins: int
    num_layers: int
    num_heads: int
    hidden_size: int
    ffn_size: int
    conv_channels: int
    window_chunks: int  # seconds one attention window spans
    output_size: int  # width of the projector's output, equal to the text model's hidden size

    @property
    def conv_output_bins(self) -> int:
        """Mel bins left after three stride-2 convolutions."""
        bins = self.num_mel_bins
        for _ in range(3):
            bins = (bins + 1) // 2
        return bins


@dataclass(frozen=True, slots=True)
class TextConfig:
    """The language model: Qwen3."""

    vocab_size: int
    hidden_size: int
    ffn_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    max_positions: int


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Everything the model's code needs to know about a checkpoint."""

    layout: Layout
    audio: AudioConfig
    text: TextConfig
    audio_token_id: int
    eos_token_ids: tuple[int, ...]
    tied_embeddings: bool  # the head is the embedding matrix
    num_classes: int = 0  # of time, at each mark of a forced aligner; 0 = a recogniser
    timestamp_token_id: int = -1  # of an aligner's marks

    @classmethod
    def from_folder(cls, folder: Path) -> ModelConfig:
        """Read `folder`/config.json (and where the end-of-sequence ids are). CheckpointError."""
        root = _Section.read(folder / "config.json")
        layout: Layout = "original" if "thinker_config" in root.values else "native"
        top = root.section("thinker_config") if layout == "original" else root
        audio = _audio_config(top.section("audio_config"))
        text = _text_config(top.section("text_config"))
        if audio.output_size != text.hidden_size:
            raise CheckpointError(
                f"{root.file}: audio_config.output_dim is {audio.output_size}, but "
                f"text_config.hidden_size is {text.hidden_size}; they must be equal"
            )
        audio_token_id = top.integer("audio_token_id", minimum=0)
        return cls(
            layout=layout,
            audio=audio,
            text=text,
            audio_token_id=audio_token_id,
            eos_token_ids=_eos_token_ids(folder, root, top, text.vocab_size),
            tied_embeddings=_tied(root, top),
            **_aligner(root, top),
        )


def num_mel_frames(num_samples: int) -> int:
    """Mel frames of a clip of `num_samples` at 16 kHz, padding to a whole second not counted."""
    return max(num_samples, MIN_SAMPLES) // HOP_SAMPLES


def num_chunks(num_frames: int) -> int:
    """One-second chunks that hold `num_frames` mel frames."""
    return -(-num_frames // CHUNK_FRAMES)


def num_frame_tokens(num_frames: int) -> int:
    """Audio tokens that `num_frames` mel frames become: 13 a second, the tail rounded up."""
    full, tail = divmod(num_frames, CHUNK_FRAMES)
    for _ in range(3):
        tail = (tail + 1) // 2
    return full * TOKENS_PER_CHUNK + tail


def num_audio_tokens(num_samples: int) -> int:
    """Audio tokens that a clip of `num_samples` at 16 kHz takes in the prompt."""
    return num_frame_tokens(num_mel_frames(num_samples))


@dataclass(frozen=True, slots=True)
class _Section:
    """One JSON object of a file, with the path of keys that led to it, for messages."""

    file: Path
    path: str
    values: Mapping[str, Any]

    @classmethod
    def read(cls, file: Path) -> _Section:
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CheckpointError(f"{file}: no such file") from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise CheckpointError(f"{file}: not readable as JSON: {error}") from error
        if not isinstance(values, dict):
            raise CheckpointError(f"{file}: must hold a JSON object")
        return cls(file, "", values)

    def name(self, key: str) -> str:
        return f"{self.file}: {self.path}{key}"

    def section(self, key: str) -> _Section:
        values = self.values.get(key)
        if not isinstance(values, dict):
            raise CheckpointError(f"{self.name(key)} must be a JSON object, is {values!r}")
        return _Section(self.file, f"{self.path}{key}.", values)

    def integer(self, *keys: str, minimum: int = 1) -> int:
        """The first of `keys` that is there, as a whole number."""
        for key in keys:
            value = self.values.get(key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
                raise CheckpointError(
                    f"{self.name(key)} must be a whole number of at least {minimum}, is {value!r}"
                )
            return value
        raise CheckpointError(f"{self.name(keys[0])} is missing")

    def number(self, key: str) -> float:
        value = self.values.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise CheckpointError(f"{self.name(key)} must be a positive number, is {value!r}")
        return float(value)

    def require(self, key: str, default: object, allowed: tuple[object, ...]) -> None:
        """Refuse a setting whose other values this model's code does not implement."""
        value = self.values.get(key, default)
        if value not in allowed:
            raise CheckpointError(
                f"{self.name(key)} is {value!r}; only "
                f"{' or '.join(repr(choice) for choice in allowed)} is supported"
            )


def _audio_config(section: _Section) -> AudioConfig:
    section.require("n_window", 50, (CHUNK_FRAMES // 2,))
    section.require("activation_function", "gelu", ("gelu",))
    window_frames = section.integer("n_window_infer")
    if window_frames % CHUNK_FRAMES:
        raise CheckpointError(
            f"{section.name('n_window_infer')} must be a multiple of {CHUNK_FRAMES}, "
            f"is {window_frames}"
        )
    config = AudioConfig(
        num_mel_bins=section.integer("num_mel_bins"),
        num_layers=section.integer("encoder_layers", "num_hidden_layers"),
        num_heads=section.integer("encoder_attention_heads"),
        hidden_size=section.integer("d_model"),
        ffn_size=section.integer("encoder_ffn_dim"),
        conv_channels=section.integer("downsample_hidden_size"),
        window_chunks=window_frames // CHUNK_FRAMES,
        output_size=section.integer("output_dim"),
    )
    if config.hidden_size % (2 * config.num_heads):
        raise CheckpointError(
            f"{section.name('d_model')} ({config.hidden_size}) must be an even multiple of "
            f"encoder_attention_heads ({config.num_heads})"
        )
    return config


def _text_config(section: _Section) -> TextConfig:
    section.require("hidden_act", "silu", ("silu",))
    section.require("attention_bias", False, (False,))
    section.require("use_sliding_window", False, (False, None))
    num_heads = section.integer("num_attention_heads")
    num_kv_heads = section.integer("num_key_value_heads")
    if num_heads % num_kv_heads:
        raise CheckpointError(
            f"{section.name('num_attention_heads')} ({num_heads}) must be a multiple of "
            f"num_key_value_heads ({num_kv_heads})"
        )
    hidden_size = section.integer("hidden_size")
    head_dim = (
        section.integer("head_dim")
        if section.values.get("head_dim") is not None
        else hidden_size // num_heads
    )
    return TextConfig(
        vocab_size=section.integer("vocab_size"),
        hidden_size=hidden_size,
        ffn_size=section.integer("intermediate_size"),
        num_layers=section.integer("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        rms_norm_eps=section.number("rms_norm_eps"),
        rope_theta=_rope_theta(section),
        max_positions=section.integer("max_position_embeddings"),
    )


def _rope_theta(section: _Section) -> float:
    """Both spellings; M-RoPE sections are noise, because all three positions are always equal."""
    for key in ("rope_parameters", "rope_scaling"):
        if section.values.get(key) is None:
            continue
        rope = section.section(key)
        for type_key in ("rope_type", "type"):
            rope.require(type_key, "default", ("default", "mrope"))
        if rope.values.get("rope_theta") is not None:
            return rope.number("rope_theta")
    return section.number("rope_theta")


def _tied(root: _Section, top: _Section) -> bool:
    """True unless the file says otherwise; the text section's own copy has no effect."""
    for section in (top, root):
        value = section.values.get("tie_word_embeddings")
        if value is not None:
            section.require("tie_word_embeddings", True, (True, False))
            return bool(value)
    return True


def _aligner(root: _Section, top: _Section) -> dict[str, int]:
    """What only a forced aligner has; nothing for a recogniser."""
    names = root.values.get("architectures") or [""]
    if "classify_num" in top.values:
        num_classes = top.integer("classify_num")
    elif "ForTokenClassification" not in str(names[0]):
        return {}
    elif isinstance(labels := root.values.get("id2label"), dict):
        num_classes = len(labels)
    else:
        num_classes = root.integer("num_labels")
    holder = top if "timestamp_token_id" in top.values else root
    mark = holder.integer("timestamp_token_id", minimum=0)
    return {"num_classes": num_classes, "timestamp_token_id": mark}


def _eos_token_ids(folder: Path, root: _Section, top: _Section, vocab_size: int) -> tuple[int, ...]:
    """From generation_config.json, else config.json, else the tokenizer's two end tokens."""
    sections = [root, top, top.section("text_config")]
    if (folder / "generation_config.json").is_file():
        sections.insert(0, _Section.read(folder / "generation_config.json"))
    for section in sections:
        value = section.values.get("eos_token_id")
        if value is None:
            continue
        ids = value if isinstance(value, list) else [value]
        if not ids or any(type(i) is not int or not 0 <= i < vocab_size for i in ids):
            raise CheckpointError(
                f"{section.name('eos_token_id')} must be token ids below {vocab_size}, is {value!r}"
            )
        return tuple(sorted(set(ids)))
    return _eos_from_tokenizer(folder)


def _eos_from_tokenizer(folder: Path) -> tuple[int, ...]:
    wanted = {"<|im_end|>", "<|endoftext|>"}
    file = folder / "tokenizer_config.json"
    if not file.is_file():
        raise CheckpointError(f"{folder / 'generation_config.json'}: eos_token_id is missing")
    added = _Section.read(file).values.get("added_tokens_decoder")
    tokens = added.items() if isinstance(added, dict) else ()
    ids = {int(i) for i, token in tokens if token.get("content") in wanted}
    if not ids:
        raise CheckpointError(
            f"{folder / 'generation_config.json'}: eos_token_id is missing, and "
            f"{file}: added_tokens_decoder names neither <|im_end|> nor <|endoftext|>"
        )
    return tuple(sorted(ids))
