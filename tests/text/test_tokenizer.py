"""Either set of tokenizer files gives the same tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    state = json.loads(processor.tokenizer.backend_tokenizer.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if t["content"] != "<asr_text>"]
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)))
    with pytest.raises(ValueError, match="<asr_text>"):
        TextTokenizer(bare)
