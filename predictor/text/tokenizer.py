"""The checkpoint's tokenizer, narrowed to what prompts and answers need.

Text from callers is encoded with a copy that knows no added tokens, so `<|im_end|>` inside a
context becomes ordinary characters; token bytes are looked up one by one, so an answer can be
decoded while it grows at a cost that does not grow with it. Built by `tokenizers` alone: importing
transformers, and its way of loading the same files, would take most of a start's time.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

TOKENIZER_FILE = "tokenizer.json"
VOCABULARY_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json")

_MARKERS = ("<|im_start|>", "<|im_end|>", "<|audio_start|>", "<|audio_end|>", "<asr_text>")
_CLASSES = ("Qwen2Tokenizer", "Qwen2TokenizerFast")  # whose rules the next line is
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class TextTokenizer:
    """Byte-level BPE with the special tokens of the ASR prompt.

    Raises ValueError when the checkpoint's tokenizer lacks one of them.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        added = tokenizer.get_added_tokens_decoder()
        self.added_tokens: dict[str, int] = {token.content: i for i, token in added.items()}
        missing = [marker for marker in _MARKERS if marker not in self.added_tokens]
        if missing:
            raise ValueError(f"the tokenizer has no token {', '.join(missing)}")
        self.im_start = self.added_tokens["<|im_start|>"]
        self.im_end = self.added_tokens["<|im_end|>"]
        self.audio_start = self.added_tokens["<|audio_start|>"]
        self.audio_end = self.added_tokens["<|audio_end|>"]
        self.asr_text = self.added_tokens["<asr_text>"]
        self._plain = Tokenizer(tokenizer.model)  # the same vocabulary, not a copy of it
        self._plain.normalizer = tokenizer.normalizer
        self._plain.pre_tokenizer = tokenizer.pre_tokenizer
        self._added_ids = frozenset(self.added_tokens.values())
        self._byte_of_char = _byte_of_char()
        self._bytes_of_token: dict[int, bytes] = {}

    @classmethod
    def load(cls, folder: Path) -> TextTokenizer:
        """From `tokenizer.json`, or from `vocab.json`, `merges.txt` and `tokenizer_config.json`.

        Raises ValueError when the folder holds no tokenizer that can be read.
        """
        if not folder.is_dir():
            raise ValueError(f"no such checkpoint folder: {folder}")
        has_file = (folder / TOKENIZER_FILE).is_file()
        missing = [name for name in VOCABULARY_FILES if not (folder / name).is_file()]
        if missing and not has_file:
            raise ValueError(f"{folder}: holds neither {TOKENIZER_FILE} nor {', '.join(missing)}")
        try:
            if has_file:
                return cls(Tokenizer.from_file(str(folder / TOKENIZER_FILE)))
            return cls(_from_vocabulary(folder))
        except ValueError:
            raise
        except Exception as error:  # what `tokenizers` raises is of no narrower kind
            raise ValueError(f"{folder}: the tokenizer is not readable: {error}") from error

    def encode_plain(self, text: str) -> list[int]:
        """Token ids of `text` as ordinary characters, whatever special token it may spell."""
        ids: list[int] = self._plain.encode(text, add_special_tokens=False).ids
        return ids

    def token_bytes(self, token_id: int) -> bytes:
        """UTF-8 bytes of one token, perhaps half a character; b"" for every added token."""
        known = self._bytes_of_token.get(token_id)
        if known is None:
            known = self._look_up(token_id)
            self._bytes_of_token[token_id] = known
        return known

    def _look_up(self, token_id: int) -> bytes:
        if token_id in self._added_ids:
            return b""
        token = self._plain.id_to_token(token_id)
        if token is None:  # the embedding is padded past the vocabulary
            return b""
        return bytes(self._byte_of_char[char] for char in token)


def _from_vocabulary(folder: Path) -> Tokenizer:
    """What transformers' Qwen2Tokenizer makes of the files that the original release has."""
    vocab, merges, config_file = (folder / name for name in VOCABULARY_FILES)
    config: dict[str, Any] = json.loads(config_file.read_text("utf-8"))
    if (name := config.get("tokenizer_class", _CLASSES[0])) not in _CLASSES:
        raise ValueError(f"{config_file}: tokenizer_class is {name!r}, not {_CLASSES[0]!r}")
    tokenizer = Tokenizer(BPE.from_file(str(vocab), str(merges)))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    added = {int(i): token for i, token in config.get("added_tokens_decoder", {}).items()}
    tokenizer.add_tokens([AddedToken(**added[i]) for i in sorted(added)])
    for i, token in added.items():
        if tokenizer.token_to_id(token["content"]) != i:
            raise ValueError(
                f"{config_file}: added_tokens_decoder: {token['content']} cannot be {i}"
            )
    return tokenizer


def _byte_of_char() -> dict[str, int]:
    """The character by which byte-level BPE writes each byte, inverted."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    table = {chr(byte): byte for byte in printable}
    table.update({chr(256 + i): byte for i, byte in enumerate(others)})
    return table
