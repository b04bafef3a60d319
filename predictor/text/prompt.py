"""The prompt around the audio: context in the system turn, a forced language in the answer.

Equal, token for token, to transformers' `Qwen3ASRProcessor.apply_transcription_request`, except
that a context cannot smuggle in special tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from predictor.errors import InvalidInput
from predictor.text.tokenizer import TextTokenizer

_MAX_CHARS_PER_TOKEN = 64  # more than any sentence has
_NUM_CACHED = 256  # texts whose tokens are kept


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids before and after the audio's embeddings."""

    tokens_before: tuple[int, ...]  # ends with <|audio_start|>
    tokens_after: tuple[int, ...]  # starts with <|audio_end|>


class PromptBuilder:
    """Builds prompts for one checkpoint; `max_context_tokens` bounds the caller's context."""

    def __init__(self, tokenizer: TextTokenizer, max_context_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._max_context_tokens = max_context_tokens
        # Most requests share their context and language; bounded, since callers choose them.
        self._encode = lru_cache(_NUM_CACHED)(tokenizer.encode_plain)
        self._cached = lru_cache(_NUM_CACHED)(self._build)

    def build(self, context: str = "", language: str | None = None) -> Prompt:
        """`language` is a canonical name or None. Raises InvalidInput when the context is long."""
        self.check_context(context)
        return self._cached(context, language)

    def _build(self, context: str, language: str | None) -> Prompt:
        tok = self._tokenizer
        before = [
            tok.im_start,
            *self._encode("system\n" + context),
            tok.im_end,
            *self._encode("\n"),
            tok.im_start,
            *self._encode("user\n"),
            tok.audio_start,
        ]
        after = [tok.audio_end, tok.im_end, *self._encode("\n"), tok.im_start]
        if language is None:
            after += self._encode("assistant\n")
        else:
            after += [*self._encode(f"assistant\nlanguage {language}"), tok.asr_text]
        return Prompt(tuple(before), tuple(after))

    def check_context(self, context: str, *, field: str = "context") -> None:
        """Raises InvalidInput when `context` has more tokens than the limit."""
        limit = self._max_context_tokens
        # Encoding takes time, so a text that is far too long is refused by its length alone.
        if len(context) > limit * _MAX_CHARS_PER_TOKEN:
            size, unit = len(context), "characters"
        else:
            size, unit = len(self._encode(context)), "tokens"
        if unit == "characters" or size > limit:
            raise InvalidInput(
                f"{field}: {size} {unit}, the limit is {limit} tokens",
                field=field,
                value=size,
                limit=limit,
            )
