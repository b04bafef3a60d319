"""The command line's options, in groups, and what they become."""

from __future__ import annotations

import argparse
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from pipelines.evaluate import EvaluateOptions
from pipelines.lib.bootstrap import NUM_RESAMPLES
from pipelines.lib.client import API_KEY_ENV, PATIENCE_S, PROTOCOLS, ServiceOptions
from pipelines.lib.errors import OptionError
from pipelines.lib.evaluation import ScoringOptions
from pipelines.lib.hypotheses import FORMS
from pipelines.lib.limits import NOT_JUDGED, GateLimits
from pipelines.lib.manifest import Clip
from pipelines.lib.normalize import DEFAULT, NORMALIZERS
from pipelines.lib.plan import Expected
from pipelines.lib.readers import LAYOUTS, read_dataset
from pipelines.lib.render import AUDIO_BUDGET_BYTES
from pipelines.lib.spoken import with_languages
from pipelines.output import note


def add_service(
    parser: argparse.ArgumentParser, *, checkpoint: bool = False, ingress: bool = False
) -> None:
    """Where the service is and how it is asked."""
    group = parser.add_argument_group("service")
    if ingress:
        group.add_argument("--ingress", help="URL of the gateway in front of the InferenceService")
    else:
        where = group.add_mutually_exclusive_group(required=True) if checkpoint else group
        where.add_argument("--url", help="the service, such as http://localhost:8080")
        if checkpoint:
            where.add_argument(
                "--checkpoint", type=Path, help="start a service here on this folder"
            )
        group.add_argument("--host-header", help="Host to send when --url is a shared ingress")
    group.add_argument("--model", default="qwen3-asr", help="served name (default %(default)s)")
    group.add_argument("--protocol", choices=PROTOCOLS, default="v2", help="default %(default)s")
    group.add_argument(
        "--api-key-env",
        default=API_KEY_ENV,
        metavar="NAME",
        help="environment variable with the API key, if any (default %(default)s)",
    )
    group.add_argument("--send-language", action="store_true", help="force the manifest's language")
    group.add_argument("--timeout", type=float, default=120, help="seconds an attempt may take")
    group.add_argument("--attempts", type=int, default=6, help="attempts for each recording")
    group.add_argument(
        "--patience",
        type=float,
        default=PATIENCE_S,
        help="seconds a recording may wait because the service says Retry-After (%(default)s)",
    )
    group.add_argument("--concurrency", type=int, default=8, help="requests at once")


def add_data(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Which recordings."""
    group = parser.add_argument_group("recordings")
    group.add_argument("--data", required=required, type=Path, help="manifest or data set folder")
    group.add_argument("--layout", choices=sorted(LAYOUTS), help="default: recognised")
    group.add_argument("--split", help="such as test, where the layout has splits")
    group.add_argument("--language", help="of a data set that does not say its own")
    group.add_argument("--limit", type=int, help="only the first so many recordings")
    group.add_argument(
        "--allow-remote",
        action="store_true",
        help="fetch recordings named by http(s), s3 or gs URL",
    )


def add_archive(parser: argparse.ArgumentParser) -> None:
    """Which recordings to transcribe, and to what."""
    parser.add_argument("source", help="folder, bucket (s3://, gs://) or manifest")
    parser.add_argument(
        "--formats", default="jsonl,txt,srt", help="of jsonl, txt, srt, vtt (default %(default)s)"
    )
    parser.add_argument("--language", help="that is spoken, with --send-language")
    parser.add_argument("--allow-remote", action="store_true", help="read from URLs and buckets")


def add_failures(parser: argparse.ArgumentParser) -> None:
    """When too much failed."""
    parser.add_argument(
        "--max-failures",
        type=float,
        default=0.05,
        help="share of recordings without an answer beyond which the exit code is 1 (%(default)s)",
    )


def add_answers(parser: argparse.ArgumentParser) -> None:
    """Answers that are there already."""
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--journal", type=Path, help="journal.jsonl of an evaluation")
    where.add_argument("--hypotheses", type=Path, help="transcripts of another system")
    parser.add_argument(
        "--form", choices=sorted(FORMS), help="of --hypotheses; default: its ending"
    )


def add_scoring(parser: argparse.ArgumentParser) -> None:
    """How answers become numbers."""
    group = parser.add_argument_group("scoring")
    group.add_argument(
        "--cluster-by",
        default="auto",
        help='what varies together: "clip", "speaker", a tag, or "auto": speaker, else session, '
        "else clip (default %(default)s)",
    )
    group.add_argument(
        "--normalizer",
        default=DEFAULT,
        help=f"{', '.join(NORMALIZERS)}, or module:function of your own (default %(default)s)",
    )
    group.add_argument(
        "--compounds", action="store_true", help="words that differ in their spaces only are right"
    )
    group.add_argument("--keywords", type=Path, help="file of names and terms, one a line")
    group.add_argument("--resamples", type=int, default=NUM_RESAMPLES, help="default %(default)s")
    group.add_argument("--seed", type=int, default=0, help="of the bootstrap (default %(default)s)")
    group.add_argument("--price", type=float, help="of the service for an hour, any currency")
    group.add_argument(
        "--audio-budget",
        type=int,
        default=AUDIO_BUDGET_BYTES,
        metavar="BYTES",
        help="for the recordings inside the HTML report (default %(default)s)",
    )


def add_gate(parser: argparse.ArgumentParser) -> None:
    """The gate's limits, one option each."""
    group = parser.add_argument_group(
        'gate (rates are shares: 0.01 is 1 %; "none" = not judged; --wer-margin 5%% = relative)'
    )
    group.add_argument(
        "--language-margin",
        action="append",
        default=[],
        metavar="LANGUAGE=MARGIN",
        help="of one language, such as Chinese=0.01, German=5%% or Thai=none",
    )
    group.add_argument("--slices", default="", metavar="TAG,…", help="tags judged as languages are")
    group.add_argument("--wer-margin", default=GateLimits().wer_margin, help="default %(default)s")
    add_fields(group, GateLimits, leave_out=("language_margins", "slices", "wer_margin"))


def add_planning(parser: argparse.ArgumentParser) -> None:
    """What an evaluation to come is expected to be like."""
    defaults = Expected(rate=0.0)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--rate", type=float, help="the stable version's error rate, a share")
    where.add_argument("--report", type=Path, help="report.json to take rate and lengths from")
    parser.add_argument("--margin", default="0.005", help='such as 0.005 or "5%%" (%(default)s)')
    helps = {
        "difference": "true difference, candidate minus stable",
        "power": "chance that the gate accepts such a candidate",
        "words": "reference words or characters in a recording",
        "clip_s": "seconds of a recording",
        "burst": "how much errors come in runs: their variance in a recording over their mean",
        "shared": "share of the errors that both versions make",
        "clips_per_speaker": "recordings of one speaker",
        "speaker_share": "share of the variance that lies between speakers",
    }
    for name, text in helps.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=float,
            default=getattr(defaults, name),
            help=f"{text} (default %(default)s)",
        )


def expected(parsed: argparse.Namespace) -> Expected:
    """The evaluation to come."""
    values = {f.name: getattr(parsed, f.name) for f in fields(Expected) if f.name != "rate"}
    return Expected(rate=parsed.rate or 0.0, **values)


def add_out(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Where results go."""
    parser.add_argument("--out", type=Path, required=required, help="folder for the results")
    parser.add_argument("--title", help="of the report (default: what answered)")
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")


def add_compile(parser: argparse.ArgumentParser) -> None:
    """What compiling needs."""
    parser.add_argument("--out", type=Path, required=True, help="folder for the YAML files")
    parser.add_argument("--image", help="of the steps; default: the one the manifests use")


def add_submit(parser: argparse.ArgumentParser) -> None:
    """What submitting needs."""
    names = ("evaluate", "evaluate-in-process", "promote", "scheduled")
    parser.add_argument("pipeline", choices=names)
    parser.add_argument("--kfp", required=True, help="URL of the Kubeflow Pipelines API")
    parser.add_argument("--kfp-namespace", help="of the user, in multi-user installations")
    parser.add_argument("--experiment", default="qwen3-asr", help="default %(default)s")
    parser.add_argument("--image", help="of the steps")
    parser.add_argument(
        "--cron",
        help="run it on this schedule, in UTC: minute, hour, day, month, weekday, and before them "
        "the second if it is not 0",
    )
    parser.add_argument("--run-name", help="default: the pipeline and what it is about")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a pipeline parameter"
    )


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


def add_fields(
    group: Any, options: type, *, prefix: str = "", leave_out: tuple[str, ...] = ()
) -> None:
    """An option for each number of a dataclass, with its default."""
    defaults = options()
    for each in fields(options):
        if each.name in leave_out:
            continue
        default = getattr(defaults, each.name)
        group.add_argument(
            f"--{prefix}{each.name.replace('_', '-')}",
            type=int if isinstance(default, int) else _number,
            default=default,
            help="default: not judged" if default is None else "default %(default)s",
        )


def _number(text: str) -> float | None:
    return None if text.lower() in NOT_JUDGED else float(text)
