"""What the command line's options become."""

from __future__ import annotations

import argparse
import os
from dataclasses import fields
from pathlib import Path

from pipelines.evaluate import EvaluateOptions
from pipelines.lib.client import ServiceOptions
from pipelines.lib.errors import OptionError
from pipelines.lib.evaluation import ScoringOptions
from pipelines.lib.expected import Expected
from pipelines.lib.limits import GateLimits
from pipelines.lib.manifest import Clip
from pipelines.lib.readers import read_dataset
from pipelines.lib.spoken import with_languages
from pipelines.output import note


def expected(parsed: argparse.Namespace) -> Expected:
    """The evaluation to come."""
    values = {f.name: getattr(parsed, f.name) for f in fields(Expected) if f.name != "rate"}
    return Expected(rate=parsed.rate or 0.0, **values)


def service_options(parsed: argparse.Namespace, url: str) -> ServiceOptions:
    """The service at `url`, asked as the options say."""
    return ServiceOptions(
        url=url,
        model=parsed.model,
        protocol=parsed.protocol,
        host_header=getattr(parsed, "host_header", None),
        api_key=os.environ.get(parsed.api_key_env),
        send_language=parsed.send_language,
        timeout_s=parsed.timeout,
        max_attempts=parsed.attempts,
        patience_s=parsed.patience,
    )


def evaluate_options(parsed: argparse.Namespace) -> EvaluateOptions:
    """How the evaluation runs."""
    return EvaluateOptions(
        concurrency=parsed.concurrency,
        allow_remote=parsed.allow_remote,
        show_progress=not parsed.quiet,
        drafts=getattr(parsed, "drafts", False),
        audio_budget_bytes=parsed.audio_budget,
        scoring=scoring_options(parsed),
    )


def scoring_options(parsed: argparse.Namespace) -> ScoringOptions:
    """How answers become numbers."""
    return ScoringOptions(
        cluster_by=parsed.cluster_by,
        num_resamples=parsed.resamples,
        seed=parsed.seed,
        price_per_hour=parsed.price,
        normalizer=parsed.normalizer,
        compounds=parsed.compounds,
        keywords=read_keywords(parsed.keywords) if parsed.keywords else (),
    )


def read_keywords(path: Path) -> tuple[str, ...]:
    """Names and terms, one a line; OptionError when the file cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"keywords: {path} cannot be read: {error}") from error
    return tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))


def read_clips(parsed: argparse.Namespace) -> list[Clip]:
    """The recordings."""
    clips = read_dataset(
        parsed.data, layout=parsed.layout, split=parsed.split, language=parsed.language
    )
    if parsed.limit is not None and parsed.limit < 1:
        raise OptionError(f"limit: {parsed.limit} is below 1")
    found, said = with_languages(clips[: parsed.limit])
    if said:
        note(said)
    return found


def gate_limits(parsed: argparse.Namespace) -> GateLimits:
    """The gate's limits."""
    values = {
        f.name: getattr(parsed, f.name) for f in fields(GateLimits) if hasattr(parsed, f.name)
    }
    margins = [text.partition("=") for text in parsed.language_margin]
    for name, equals, _ in margins:
        if not equals:
            raise OptionError(f"language-margin: {name!r} is not LANGUAGE=MARGIN")
    values["language_margins"] = {name: margin for name, _, margin in margins}
    return GateLimits.from_mapping(values)
