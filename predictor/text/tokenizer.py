"""The checkpoint's tokenizer, narrowed to what prompts and answers need.

Text from callers is encoded with a copy that knows no added tokens, so `<|im_end|>` inside a
context becomes ordinary characters; token bytes are looked up one by one, so an answer can be
decoded while it grows at a cost that does not grow with it.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

_MARKERS = ("<|im_start|>", "<|im_end|>", "<|audio_start|>", "<|audio_end|>", "<asr_text>")


class TextTokenizer:
    """Byte-level BPE with the special tokens of the ASR prompt.

    Raises ValueError when the checkpoint's tokenizer lacks one of them.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.added_tokens: dict[str, int] = dict(tokenizer.get_added_vocab())
        missing = [marker for marker in _MARKERS if marker not in self.added_tokens]
        if missing:
            raise ValueError(f"the tokenizer has no token {', '.join(missing)}")
        self.im_start = self.added_tokens["<|im_start|>"]
        self.im_end = self.added_tokens["<|im_end|>"]
        self.audio_start = self.added_tokens["<|audio_start|>"]
        self.audio_end = self.added_tokens["<|audio_end|>"]
        self.asr_text = self.added_tokens["<asr_text>"]
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        state["added_tokens"] = []
        self._plain = Tokenizer.from_str(json.dumps(state))
        self._added_ids = frozenset(self.added_tokens.values())
        self._byte_of_char = _byte_of_char()
        self._bytes_of_token: dict[int, bytes] = {}

    @classmethod
    def load(cls, folder: Path) -> TextTokenizer:
        """From `tokenizer.json`, or from `vocab.json`, `merges.txt` and `tokenizer_config.json`.

        Raises ValueError or OSError when the folder holds no tokenizer; never asks the network.
        """
        if not folder.is_dir():
            raise ValueError(f"no such checkpoint folder: {folder}")
        return cls(
            AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        )

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


def _byte_of_char() -> dict[str, int]:
    """The character by which byte-level BPE writes each byte, inverted."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    table = {chr(byte): byte for byte in printable}
    table.update({chr(256 + i): byte for i, byte in enumerate(others)})
    return table
