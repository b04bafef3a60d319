"""Every setting of the predictor, declared once; parser, messages and README's table follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from predictor.settings.parts.answer import AnswerFields
from predictor.settings.parts.audio import AudioFields
from predictor.settings.parts.engine import EngineFields
from predictor.settings.parts.model import DEFAULT_MODEL_NAME, PRECISIONS, ModelFields
from predictor.settings.parts.server import ServerFields
from predictor.settings.parts.sessions import SessionsFields
from predictor.settings.spec import Spec

ENV_PREFIX: Final = "QWEN3_ASR_"
AUDIO_TOKENS_PER_S: Final = 13
PROMPT_TOKENS: Final = 64  # of the chat template around audio and context
# In the order of the table.
_PARTS: Final = (ModelFields, ServerFields, AudioFields, EngineFields, AnswerFields, SessionsFields)


@dataclass(frozen=True, kw_only=True)
class Settings(ModelFields, ServerFields, AudioFields, EngineFields, AnswerFields, SessionsFields):
    """The effective settings; `sources` says for each where its value came from."""

    config_file: Path | None = None  # the file that was read
    sources: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    notes: tuple[str, ...] = ()  # what the operator should know, for the log

    @property
    def dtype(self) -> str:
        """`precision` as torch names it, or "auto"."""
        return PRECISIONS[self.precision]

    @property
    def aligner_dtype(self) -> str:
        """The same of the aligner: 8 bits are for it only where it is asked for them by name."""
        if self.aligner_precision != "auto":
            return PRECISIONS[self.aligner_precision]
        return "auto" if self.precision in ("int8", "fp8") else self.dtype

    @property
    def has_aligner(self) -> bool:
        """Whether words have times."""
        return self.aligner_dir is not None or self.aligner_id is not None

    @property
    def served_names(self) -> tuple[str, ...]:
        """The model's name first, then the names it is answered to as well."""
        names = (self.model_name, DEFAULT_MODEL_NAME, *self.model_aliases)
        return tuple(dict.fromkeys(names))


def specs() -> dict[str, tuple[Spec, Any]]:
    """Name -> (spec, default) of every setting, in the order of the table."""
    return {
        declared.name: (declared.metadata["spec"], _default(declared))
        for part in _PARTS
        for declared in fields(part)
    }


def _default(declared: Field[Any]) -> Any:
    assert declared.default is not MISSING
    return declared.default
