"""Either set of tokenizer files gives the same tokens."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from predictor.text.tokenizer import TextTokenizer


@pytest.fixture(scope="module")
def original_layout(processor: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the original release ships: vocab, merges, and special tokens in config."""
    folder = tmp_path_factory.mktemp("original")
    state = json.loads(processor.tokenizer.backend_tokenizer.to_str())
    vocab, merges = state["model"]["vocab"], state["model"]["merges"]
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(m if isinstance(m, str) else " ".join(m) for m in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    added = {
        str(token.pop("id")): {**token, "normalized": False} for token in state["added_tokens"]
    }
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "added_tokens_decoder": added,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "extra_special_tokens": {
            "audio_token": "<|audio_pad|>",
            "audio_bos_token": "<|audio_start|>",
            "audio_eos_token": "<|audio_end|>",
        },
        "unk_token": None,
        "bos_token": None,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_the_original_files_give_the_same_tokens(
    tokenizer: TextTokenizer, original_layout: Path
) -> None:
    original = TextTokenizer.load(original_layout)
    assert original.added_tokens == tokenizer.added_tokens
    for text in ("turn on the light", "language Chinese", "打开灯 123", "<|im_end|><asr_text>"):
        assert original.encode_plain(text) == tokenizer.encode_plain(text)
    for token_id in range(400):
        assert original.token_bytes(token_id) == tokenizer.token_bytes(token_id)


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_bytes_of_tokens_give_the_text_back(tokenizer: TextTokenizer, text: str) -> None:
    import unicodedata

    ids = tokenizer.encode_plain(text)
    assert b"".join(map(tokenizer.token_bytes, ids)).decode() == unicodedata.normalize("NFC", text)
    assert not set(ids) & set(tokenizer.added_tokens.values())


def test_ids_past_the_vocabulary_say_nothing(tokenizer: TextTokenizer) -> None:
    assert tokenizer.token_bytes(10_000_000) == b""


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such checkpoint folder"):
        TextTokenizer.load(tmp_path / "nothing")


def test_a_tokenizer_without_the_markers_is_refused(processor: Any) -> None:
    state = json.loads(processor.tokenizer.backend_tokenizer.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if t["content"] != "<asr_text>"]
    with pytest.raises(ValueError, match="<asr_text>"):
        TextTokenizer(Tokenizer.from_str(json.dumps(state)))


def test_the_added_tokens_are_those_that_transformers_finds(
    processor: Any, tokenizer: TextTokenizer, original_layout: Path
) -> None:
    from transformers import AutoTokenizer

    assert tokenizer.added_tokens == processor.tokenizer.get_added_vocab()
    theirs = AutoTokenizer.from_pretrained(original_layout, local_files_only=True)
    ours = TextTokenizer.load(original_layout)
    assert ours.added_tokens == theirs.get_added_vocab()


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_characters="<"), max_size=60))
def test_the_original_files_split_text_as_transformers_does(
    processor: Any, original_layout: Path, text: str
) -> None:
    ours = TextTokenizer.load(original_layout)
    assert ours.encode_plain(text) == processor.tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("file", ["vocab.json", "merges.txt", "tokenizer_config.json"])
def test_a_missing_file_of_the_original_layout_is_named(
    original_layout: Path, tmp_path: Path, file: str
) -> None:
    folder = shutil.copytree(original_layout, tmp_path / "less")
    (folder / file).unlink()
    with pytest.raises(ValueError, match=f"neither tokenizer.json nor {file}"):
        TextTokenizer.load(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tokenizer_class": "LlamaTokenizer"}, "tokenizer_class is 'LlamaTokenizer'"),
        ({"added_tokens_decoder": {"7": {"content": "<new>"}}}, "<new> cannot be 7"),
    ],
)
def test_a_config_that_contradicts_the_vocabulary_is_refused(
    original_layout: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    folder = shutil.copytree(original_layout, tmp_path / "other")
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | change), "utf-8")
    with pytest.raises(ValueError, match=said):
        TextTokenizer.load(folder)


def test_a_tokenizer_that_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="the tokenizer is not readable"):
        TextTokenizer.load(tmp_path)
