"""The tiny checkpoint's tokenizer and processor, made from the grammar; an encoder for workers.

Byte-level BPE with Qwen2's pre-tokenizer: 256 bytes, merges that make every Chinese character of
the grammar one token, merges learned on English sentences, then the added tokens. No merge joins
two characters of Chinese, so the tokens of a prefix of units are a prefix of the tokens.
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from . import grammar

BASE_SIZE = 1300
ADDED_TOKENS = {
    token: BASE_SIZE + index
    for index, token in enumerate(
        (
            "<|endoftext|>",
            "<|im_start|>",
            "<|im_end|>",
            "<|audio_start|>",
            "<|audio_pad|>",
            "<|audio_end|>",
            "<asr_text>",
            "<timestamp>",
        )
    )
}
VOCAB_SIZE = BASE_SIZE + len(ADDED_TOKENS)
_NOT_SPECIAL = ("<asr_text>", "<timestamp>")  # they must survive decoding without special tokens
_NUM_SENTENCES = 20_000
_PATTERN = (  # Qwen2Tokenizer's
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# System (always, empty if none), the audio, the assistant turn that the answer continues.
_CHAT_TEMPLATE = """\
{%- set ns = namespace(system='') -%}
{%- for message in messages if message.role == 'system' -%}
{%- if message.content is string -%}{%- set ns.system = ns.system + message.content -%}
{%- else -%}{%- for part in message.content if part.type == 'text' -%}
{%- set ns.system = ns.system + part.text -%}{%- endfor -%}
{%- endif -%}{%- endfor -%}
{{- '<|im_start|>system\\n' + ns.system + '<|im_end|>\\n' -}}
{%- for message in messages if message.role != 'system' -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.content is string -%}{{- message.content -}}
{%- else -%}{%- for part in message.content -%}
{%- if part.type == 'audio' or 'audio' in part or 'audio_url' in part -%}
{{- '<|audio_start|><|audio_pad|><|audio_end|>' -}}
{%- elif part.type == 'text' -%}{{- part.text -}}{%- endif -%}
{%- endfor -%}{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


class UnitTokenizer:
    """Encodes text unit by unit, with a cache; imports neither torch nor transformers."""

    def __init__(self, tokenizer_dir: str | Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(Path(tokenizer_dir) / "tokenizer.json"))
        self._cache: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_units(
        self, words: Sequence[str], language: str, follows: bool = False
    ) -> list[list[int]]:
        """Tokens of each unit; all together they are the tokens of the joined text.

        `follows`: the text comes after another sentence, so its first English word is spaced.
        """
        spaced = language == "English"
        return [
            self._unit(" " + word if spaced and (index or follows) else word)
            for index, word in enumerate(words)
        ]

    def _unit(self, text: str) -> list[int]:
        ids = self._cache.get(text)
        if ids is None:
            ids = self.encode(text)
            if len(self._cache) < 50_000:
                self._cache[text] = ids
        return ids


def build_processor(out_dir: str | Path, seed: int = 0) -> None:
    """Writes a Qwen3ASRProcessor (tokenizer, feature extractor, chat template) to `out_dir`."""
    from transformers import Qwen2Tokenizer, Qwen3ASRFeatureExtractor, Qwen3ASRProcessor
    from transformers.tokenization_utils_base import AddedToken

    vocab, merges = _train(seed)
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    special = {
        t: AddedToken(t, special=t not in _NOT_SPECIAL, normalized=False) for t in ADDED_TOKENS
    }
    tokenizer = Qwen2Tokenizer(
        vocab=vocab | ADDED_TOKENS,
        merges=merges,
        unk_token=None,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens={
            "audio_token": "<|audio_pad|>",
            "audio_bos_token": "<|audio_start|>",
            "audio_eos_token": "<|audio_end|>",
        },
        model_max_length=131_072,
    )
    tokenizer.add_tokens(list(special.values()))
    processor = Qwen3ASRProcessor(
        Qwen3ASRFeatureExtractor(), tokenizer, chat_template=_CHAT_TEMPLATE
    )
    processor.save_pretrained(out)
    (out / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), "utf-8")
    (out / "merges.txt").write_text(
        "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), "utf-8"
    )


def _train(seed: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges, deterministic for a seed."""
    byte_symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = _chinese_merges()
    rng = random.Random(seed)
    english = [
        grammar.sample(rng, "train", "English", hotword=False).text for _ in range(_NUM_SENTENCES)
    ]
    merges += _english_merges(english, BASE_SIZE - len(byte_symbols) - len(merges))
    tokens = byte_symbols + [a + b for a, b in merges]
    assert len(tokens) == len(set(tokens)) == BASE_SIZE
    return {token: index for index, token in enumerate(tokens)}, merges


def _chinese_merges() -> list[tuple[str, str]]:
    """Three bytes a character: first two, then the third."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    merges: dict[tuple[str, str], None] = {}
    for character in sorted(grammar.all_characters()):
        a, b, c = tuple(byte_level.pre_tokenize_str(character)[0][0])
        merges[a, b] = None
        merges[a + b, c] = None
    return list(merges)


def _english_merges(texts: list[str], count: int) -> list[tuple[str, str]]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + count, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [(a, b) for a, b in (m.split(" ") if isinstance(m, str) else m for m in merges)]
