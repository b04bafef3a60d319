"""Reading config.json: both layouts, the token arithmetic, and errors that name file and key."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.qwen3_asr.modeling_qwen3_asr import _get_feat_extract_output_lengths

from predictor.model.config import (
    CheckpointError,
    ModelConfig,
    num_audio_tokens,
    num_frame_tokens,
    num_mel_frames,
)
from tests.model.checkpoints import AUDIO_PAD, END, write_original


def rewritten(native: Path, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A folder with only a config.json: that of `native`, changed."""
    config = json.loads((native / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_native_layout(native: Path) -> None:
    config = ModelConfig.from_folder(native)
    assert config.layout == "native"
    assert (config.audio.hidden_size, config.audio.num_layers, config.audio.num_heads) == (64, 2, 4)
    assert (config.audio.conv_channels, config.audio.window_chunks) == (16, 8)
    assert config.audio.conv_output_bins == 16
    assert (config.text.num_heads, config.text.num_kv_heads, config.text.head_dim) == (6, 2, 32)
    assert (config.text.rope_theta, config.text.rms_norm_eps) == (1e4, 1e-6)
    assert (config.audio_token_id, config.eos_token_ids) == (AUDIO_PAD, (0, END))
    assert config.tied_embeddings


def test_original_layout_gives_the_same_shape(native: Path, tmp_path: Path) -> None:
    original = ModelConfig.from_folder(write_original(native, tmp_path / "original"))
    ours = ModelConfig.from_folder(native)
    assert original.layout == "original"
    assert (original.audio, original.text) == (ours.audio, ours.text)
    assert original.eos_token_ids == ours.eos_token_ids
    assert original.audio_token_id == ours.audio_token_id


def test_token_arithmetic_equals_transformers() -> None:
    num_frames = torch.arange(1, 3_100)
    expected = _get_feat_extract_output_lengths(num_frames)
    assert [num_frame_tokens(int(n)) for n in num_frames] == expected.tolist()


def test_audio_tokens_of_a_second_and_of_less_than_half() -> None:
    assert num_audio_tokens(16_000) == 13
    assert num_audio_tokens(1) == num_audio_tokens(8_000) == 7
    assert num_mel_frames(16_159) == 100


def set_in(section: str, key: str, value: object) -> Callable[[dict[str, Any]], object]:
    def change(config: dict[str, Any]) -> None:
        target = config[section] if section else config
        if value is None:
            del target[key]
        else:
            target[key] = value

    return change


@pytest.mark.parametrize(
    ("section", "key", "value", "named"),
    [
        ("", "text_config", 3, "text_config"),
        ("", "audio_config", None, "audio_config"),
        ("", "audio_token_id", None, "audio_token_id"),
        ("", "audio_token_id", "201", "audio_token_id"),
        ("", "tie_word_embeddings", "yes", "tie_word_embeddings"),
        ("audio_config", "d_model", None, "audio_config.d_model"),
        ("audio_config", "d_model", 65, "audio_config.d_model"),
        ("audio_config", "encoder_layers", True, "audio_config.encoder_layers"),
        ("audio_config", "encoder_layers", 0, "audio_config.encoder_layers"),
        ("audio_config", "n_window", 100, "audio_config.n_window"),
        ("audio_config", "n_window_infer", 850, "audio_config.n_window_infer"),
        ("audio_config", "activation_function", "relu", "audio_config.activation_function"),
        ("audio_config", "output_dim", 95, "output_dim"),
        ("text_config", "hidden_act", "gelu", "text_config.hidden_act"),
        ("text_config", "attention_bias", True, "text_config.attention_bias"),
        ("text_config", "use_sliding_window", True, "text_config.use_sliding_window"),
        ("text_config", "num_key_value_heads", 4, "num_key_value_heads"),
        ("text_config", "rms_norm_eps", "small", "text_config.rms_norm_eps"),
        ("text_config", "vocab_size", 1.5, "text_config.vocab_size"),
        ("text_config", "rope_parameters", None, "text_config.rope_theta"),
        ("text_config", "rope_parameters", {"rope_type": "yarn"}, "rope_parameters.rope_type"),
    ],
)
def test_an_unusable_value_is_named_with_its_file(
    native: Path, tmp_path: Path, section: str, key: str, value: object, named: str
) -> None:
    folder = rewritten(native, tmp_path, set_in(section, key, value))
    with pytest.raises(CheckpointError, match=r"config\.json") as error:
        ModelConfig.from_folder(folder)
    assert named in str(error.value)


def test_errors_of_the_original_layout_name_the_nested_key(native: Path, tmp_path: Path) -> None:
    folder = write_original(native, tmp_path / "original")
    config = json.loads((folder / "config.json").read_text())
    del config["thinker_config"]["text_config"]["head_dim"]
    config["thinker_config"]["text_config"]["vocab_size"] = -1
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"thinker_config\.text_config\.vocab_size"):
        ModelConfig.from_folder(folder)


@pytest.mark.parametrize("content", [None, "{", "[]", b"\xff\xfe\x00"])
def test_an_unreadable_file_is_named(tmp_path: Path, content: str | bytes | None) -> None:
    file = tmp_path / "config.json"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        file.write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        ModelConfig.from_folder(tmp_path)


def test_end_tokens_come_from_the_first_file_that_has_them(native: Path, tmp_path: Path) -> None:
    folder = rewritten(native, tmp_path, set_in("", "eos_token_id", 7))
    assert ModelConfig.from_folder(folder).eos_token_ids == (7,)
    (folder / "generation_config.json").write_text('{"eos_token_id": [9, 8]}')
    assert ModelConfig.from_folder(folder).eos_token_ids == (8, 9)
    (folder / "generation_config.json").write_text('{"eos_token_id": 99999}')
    with pytest.raises(CheckpointError, match=r"generation_config\.json: eos_token_id"):
        ModelConfig.from_folder(folder)


def test_end_tokens_come_from_the_tokenizer_when_no_config_has_them(
    native: Path, tmp_path: Path
) -> None:
    folder = rewritten(native, tmp_path, set_in("", "eos_token_id", None))
    with pytest.raises(CheckpointError, match="eos_token_id is missing"):
        ModelConfig.from_folder(folder)
    added = {
        "5": {"content": "<|im_end|>"},
        "3": {"content": "<|endoftext|>"},
        "4": {"content": "x"},
    }
    tokenizer_config = folder / "tokenizer_config.json"
    tokenizer_config.write_text(json.dumps({"added_tokens_decoder": added}))
    assert ModelConfig.from_folder(folder).eos_token_ids == (3, 5)
    tokenizer_config.write_text(json.dumps({"added_tokens_decoder": {"4": {"content": "x"}}}))
    with pytest.raises(CheckpointError, match="added_tokens_decoder"):
        ModelConfig.from_folder(folder)
