"""What is taken where nothing else is said, for library and command line; imports nothing."""

from __future__ import annotations

from typing import Literal, get_args

Protocol = Literal["v2", "openai", "openai-stream"]
PROTOCOLS: tuple[str, ...] = get_args(Protocol)
API_KEY_ENV = "ASR_API_KEY"  # where the command line and the pipelines take the key from
PATIENCE_S = 600.0  # that one recording waits because the service says Retry-After
NUM_RESAMPLES = 10_000  # of a bootstrap
AUDIO_BUDGET_BYTES = 8_000_000  # for the recordings inside an HTML report
HYPOTHESIS_FORMS = ("jsonl", "ctm", "trn", "txt")  # of other systems' transcripts
API_ATTEMPTS = 5  # at a call of the Kubernetes API, while it is away
