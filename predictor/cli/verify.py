"""`qwen3-asr verify`: is this checkpoint served right? Its answers here beside transformers' own.

Each recording goes through both models; their log-mel, encoder output, log-probabilities and tokens
are compared, one row each. Transformers computes in float32, whatever is served in.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from predictor.cli.arguments import add_checkpoint, add_recordings, command_parser, seconds
from predictor.cli.checkpoint import settings_for
from predictor.cli.errors import FAILED, OK, CliError
from predictor.cli.recordings import BUNDLED, find

if TYPE_CHECKING:
    from predictor.cli.stages import Floats, Stages

_ABOUT = """\
Compare a checkpoint as it is served here with transformers' own model, on the recordings of the
package and on yours. Exit code 1 when they differ by more than the precision explains.

  qwen3-asr verify --checkpoint /models/Qwen3-ASR-1.7B-hf
  qwen3-asr verify --checkpoint tiny mine.wav more/
"""


@dataclass(frozen=True, slots=True)
class Limits:
    """The most by which a sound server differs from transformers in float32."""

    mel: float = 1e-3  # absolute, of values within about -1.5 to 1.5; always computed in float32
    encoder: float = 1e-3  # of the largest value
    logprob: float = 1e-2  # mean over the answer's tokens, natural logarithm


FLOAT32: Final = Limits()
HALF: Final = Limits(encoder=0.1, logprob=0.15)
EIGHT_BITS: Final = Limits(encoder=0.3, logprob=0.5)


@dataclass(frozen=True, slots=True)
class Row:
    """One recording's differences."""

    name: str
    mel: float
    encoder: float
    logprob: float
    num_tokens: int
    num_same: int  # tokens up to the first that differs
    is_tie: bool  # where they part, the other's token was as good within the limit
    their_s: float
    our_s: float

    def is_good(self, limits: Limits) -> bool:
        """Within the limits; NaN is not."""
        close = self.mel <= limits.mel and self.encoder <= limits.encoder
        same = self.num_same == self.num_tokens or self.is_tie
        return close and same and self.logprob <= limits.logprob


def run(argv: list[str]) -> int:
    """Print the table."""
    args = _parser().parse_args(argv)
    recordings = find([str(BUNDLED), *args.inputs], recursive=True)
    paths = [recording.path for recording in recordings if recording.path is not None]
    if len(paths) < len(recordings):
        raise CliError("standard input: give a file, which both models hear")
    settings = settings_for(args.checkpoint, args.set)
    if settings.model_dir is None:
        raise CliError(
            f"--checkpoint {settings.model_id}: verify needs a folder; "
            f"hf download {settings.model_id} --local-dir FOLDER makes one"
        )
    from predictor.cli.reference import Reference
    from predictor.cli.stages import served
    from predictor.cli.waveform import waveform

    names = [recording.name.name for recording in recordings]
    clips = [waveform(path, args.seconds) for path in paths]
    _say(f"transformers, float32, {len(clips)} recordings of up to {args.seconds:g} s ...")
    reference = Reference(settings.model_dir, args.device)
    expected = [reference.stages(samples) for samples in clips]
    _say("this server ...")
    precision, found = served(settings, clips)
    judged = [reference.judge(c, each.tokens) for c, each in zip(clips, found, strict=True)]
    limits = {"float32": FLOAT32, "bfloat16": HALF, "float16": HALF}.get(precision, EIGHT_BITS)
    rows = [compare(*each, limits) for each in zip(names, expected, found, judged, strict=True)]
    sys.stdout.write(table(rows, limits, precision))
    return OK if all(row.is_good(limits) for row in rows) else FAILED


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("verify", _ABOUT)
    add = parser.add_argument
    add_recordings(parser, "FILE|DIR", "recordings of your own, besides ours")
    add_checkpoint(parser)
    add("--device", default="auto", choices=("auto", "cpu", "cuda"), help="where transformers runs")
    add("--seconds", type=seconds, default=30.0, help="of each recording (default 30)")
    return parser


def compare(
    name: str,
    expected: Stages,
    found: Stages,
    judged: tuple[list[float], list[float]],
    limits: Limits,
) -> Row:
    """The differences of one recording; `judged`: what transformers thinks of our tokens, and of
    the likeliest in their places, as log-probabilities."""
    import numpy as np

    def largest(one: Floats, other: Floats) -> float:
        return float(np.abs(one - other).max()) if one.shape == other.shape else float("inf")

    pairs = zip(expected.tokens, found.tokens, strict=False)
    num_same = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
    if num_same is None:
        num_same = min(len(expected.tokens), len(found.tokens))
    ours, best = np.asarray(judged[0]), np.asarray(judged[1])
    gaps = np.abs(np.asarray(found.logprobs) - ours)
    parting = (best - ours)[num_same : num_same + 1]
    return Row(
        name=name,
        mel=largest(expected.mel, found.mel),
        encoder=largest(expected.encoder, found.encoder) / float(np.abs(expected.encoder).max()),
        logprob=float(gaps.mean()) if len(gaps) else 0.0,
        num_tokens=max(len(expected.tokens), len(found.tokens)),
        num_same=num_same,
        is_tie=len(parting) > 0 and float(parting[0]) <= 2 * limits.logprob,
        their_s=expected.seconds,
        our_s=found.seconds,
    )


def table(rows: list[Row], limits: Limits, precision: str) -> str:
    """What is printed: differences, the limits below, the verdict at the end."""
    head = f"{'recording':<24} {'log-mel':>9} {'encoder':>9} {'log-prob':>9} {'tokens':>9}"
    lines = [head + f" {'theirs':>8} {'ours':>8}"]
    for row in rows:
        tokens = f"{row.num_same}/{row.num_tokens}"
        line = f"{row.name[:24]:<24} {row.mel:>9.1e} {row.encoder:>9.1e} {row.logprob:>9.1e}"
        line += f" {tokens:>9} {row.their_s:>6.2f} s {row.our_s:>6.2f} s"
        tie = "  (a tie)" if row.is_tie and row.num_same < row.num_tokens else ""
        lines.append(line + tie + ("" if row.is_good(limits) else "  DIFFERS"))
    line = f"{'limit, ' + precision:<24} {limits.mel:>9.1e} {limits.encoder:>9.1e}"
    lines.append(line + f" {limits.logprob:>9.1e}      same")
    bad = sum(not row.is_good(limits) for row in rows)
    verdict = "as transformers has it" if not bad else f"{bad} of {len(rows)} recordings differ"
    return "\n".join([*lines, "", f"verify: {verdict}"]) + "\n"


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
