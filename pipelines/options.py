"""The command line's options, in groups; what they become is in `chosen`.

Only what costs nothing is imported here: numpy, the Kubernetes client and their like take seconds,
and `--help` needs none of them.
"""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from pipelines.lib.defaults import (
    API_KEY_ENV,
    AUDIO_BUDGET_BYTES,
    HYPOTHESIS_FORMS,
    NUM_RESAMPLES,
    PATIENCE_S,
    PROTOCOLS,
)
from pipelines.lib.expected import Expected
from pipelines.lib.limits import NOT_JUDGED, GateLimits
from pipelines.lib.normalize import DEFAULT, NORMALIZERS
from pipelines.lib.readers import LAYOUTS


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
        "--form", choices=sorted(HYPOTHESIS_FORMS), help="of --hypotheses; default: its ending"
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
    names = ("evaluate", "evaluate-in-process", "promote", "scheduled", "transcribe")
    parser.add_argument("pipeline", choices=names)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--kfp", help="URL of the Kubeflow Pipelines API")
    where.add_argument(
        "--local",
        type=Path,
        metavar="FOLDER",
        help="run it here instead, without a cluster or an image: artifacts go to FOLDER",
    )
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
