"""The prompt around the audio: context in the system turn, a forced language in the answer.

Equal, token for token, to transformers' `Qwen3ASRProcessor.apply_transcription_request`, except
that a context cannot smuggle in special tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from predictor.errors import InvalidInput
from predictor.text.tokenizer import TextTokenizer

_MAX_CHARS_PER_TOKEN = 64  # more than any sentence has


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

    def build(self, context: str = "", language: str | None = None) -> Prompt:
        """`language` is a canonical name or None. Raises InvalidInput when the context is long."""
        self.check_context(context)
        tok = self._tokenizer
        before = [
            tok.im_start,
            *tok.encode_plain("system\n" + context),
            tok.im_end,
            *tok.encode_plain("\n"),
            tok.im_start,
            *tok.encode_plain("user\n"),
            tok.audio_start,
        ]
        after = [tok.audio_end, tok.im_end, *tok.encode_plain("\n"), tok.im_start]
        if language is None:
            after += tok.encode_plain("assistant\n")
        else:
            after += [*tok.encode_plain(f"assistant\nlanguage {language}"), tok.asr_text]
        return Prompt(tuple(before), tuple(after))

    def check_context(self, context: str, *, field: str = "context") -> None:
        """Raises InvalidInput when `context` has more tokens than the limit."""
        limit = self._max_context_tokens
        # Encoding takes time, so a text that is far too long is refused by its length alone.
        if len(context) > limit * _MAX_CHARS_PER_TOKEN:
            size, unit = len(context), "characters"
        else:
            size, unit = len(self._tokenizer.encode_plain(context)), "tokens"
        if unit == "characters" or size > limit:
            raise InvalidInput(
                f"{field}: {size} {unit}, the limit is {limit} tokens",
                field=field,
                value=size,
                limit=limit,
            )
