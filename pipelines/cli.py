"""The command line: `python -m pipelines COMMAND`, each described by its `--help`.

Exit codes: 0 done or accepted, 1 refused, rolled back or too much failed, 2 a mistake in the call
or its inputs, 3 undecided.
What a machine reads goes to standard output, what a person watches to standard error.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NoReturn

from pipelines import options, rollout_options
from pipelines.lib.errors import PipelineError, ServiceDown
from pipelines.output import ExitCode

EVALUATE = """\
Transcribe recordings with a running service and score the answers.

  # a manifest (JSONL: audio, text, language, …), or an unpacked LibriSpeech, AISHELL, Fleurs,
  # Common Voice or Hugging Face folder
  python -m pipelines evaluate --url http://localhost:8080 --data set/manifest.jsonl --out out/v1

  # no service: start one here on a checkpoint, for the length of the evaluation
  python -m pipelines evaluate --checkpoint /models/Qwen3-ASR-1.7B-hf --data set --out out/v1

Writes journal.jsonl (raw answers; an interrupted run continues from it), report.json, report.md
and report.html (one file, the worst recordings playable) to --out.
"""
COMPARE = """\
Compare two reports of the same recordings and judge the candidate by the gate.

  python -m pipelines compare out/v1/report.json out/v2/report.json --out out/v1-v2

Exit code 0: the candidate is accepted; 1: it is refused, and the reasons say why; 3: too few
recordings to tell, and the reasons say how many would decide.
"""
TRANSCRIBE = """\
Transcribe an archive to JSONL, text and subtitles; a run that was stopped continues.

  python -m pipelines transcribe recordings/ --url http://localhost:8080 --out out/archive
  python -m pipelines transcribe s3://calls/2026/ --allow-remote --url http://localhost:8080 \\
      --out out/calls --formats jsonl,srt

Writes transcripts.jsonl, and a file for each recording below txt/, srt/ or vtt/.
"""
RESCORE = """\
Score answers that are there anew, without asking a service.

  # references were corrected, or another normaliser is wanted
  python -m pipelines rescore --data set/manifest.jsonl --journal out/v1/journal.jsonl --out out/v1b

  # transcripts of another system: JSONL, CTM, sclite's trn, or Kaldi's text (.txt)
  python -m pipelines rescore --data set/manifest.jsonl --hypotheses other.trn --out out/other
"""
TREND = """\
Show error rates over several reports, in the order given.

  python -m pipelines trend out/2026-*/report.json --out out/trend
"""
PLAN = """\
Say how many recordings an evaluation needs before the gate can decide.

  # a rate of 5 %, a margin of half a point, 12 words and 5 s a recording
  python -m pipelines plan --rate 0.05 --margin 0.005

  # recordings like those of a report, each of its languages; a margin relative to the rate
  python -m pipelines plan --report out/v1/report.json --margin 5%
"""
PROMOTE = """\
Roll a candidate out if the evaluation finds it good enough.

  python -m pipelines promote qwen3-asr --namespace asr --storage-uri s3://models/v2 \\
      --data set/manifest.jsonl --ingress http://ingress.example.com \\
      --prometheus http://prometheus.monitoring:9090 --out out/promote

The candidate is deployed without traffic, both versions transcribe the recordings, the gate
decides, then traffic moves step by step while Prometheus is watched. Anything wrong rolls back.
Started again after an interruption, it continues. Works in Knative and Standard mode (Standard:
KServe 0.21 or later with the Gateway API). Without --ingress the versions are called at their own
addresses, which works inside the cluster.

--full promotes a candidate at once that was accepted and is being stepped up, whoever does that.

Exit code 0: promoted; 1: refused or rolled back, and the reasons say why.
"""
ROLLBACK = """\
Undo a rollout under way, or return to the version before after a promotion.

  python -m pipelines rollback qwen3-asr --namespace asr --reason "customers complain"

Always wins: it takes the rollout from a run that is alive, and ends as soon as the version before
has the traffic. A second one has nothing left to do.
"""
ABORT = """\
End what is under way: a rollout, or the reversion of a promotion.

  python -m pipelines abort qwen3-asr --namespace asr
"""
PAUSE = """\
Hold the traffic where it is; the run that steps it up waits and goes on watching.

  python -m pipelines pause qwen3-asr --namespace asr --reason "until Monday"
"""
RESUME = """\
Let a paused rollout go on; when no run is alive to do that, this one does.

  python -m pipelines resume qwen3-asr --namespace asr --prometheus http://prometheus:9090
"""
STATUS = """\
Say where the rollout of an InferenceService stands.

  python -m pipelines status qwen3-asr --namespace asr

Exit code 0: nothing is under way and the cluster is what is written; 1: anything else.
"""
COMPILE = """\
Compile the Kubeflow pipelines to IR YAML.

  python -m pipelines compile --out pipelines/compiled
"""
SUBMIT = """\
Run a pipeline on Kubeflow Pipelines, once or on a schedule.

  python -m pipelines submit evaluate --kfp http://localhost:8888 \\
      --set name=qwen3-asr --set namespace=asr --set data=/data/set
  python -m pipelines submit scheduled --kfp http://localhost:8888 --cron "0 3 * * *" --set …

  # the same pipeline on this machine, by KFP's local runner
  python -m pipelines submit evaluate --local out/kfp --set url=http://localhost:8080 \\
      --set data=/sets/mine --set journals=

Without --set url=… the address is the one in the InferenceService's status. The next three times of
a schedule are printed.
"""


def main(arguments: Sequence[str]) -> int:
    """Run one command; gives its exit code."""
    parsed = build_parser().parse_args(arguments)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)  # ends what was started, as Ctrl-C does
    try:
        outcome = _function(parsed.run)(parsed)
    except ServiceDown as error:
        sys.stderr.write(f"error: {error}\n")
        return ExitCode.REFUSED
    except PipelineError as error:
        sys.stderr.write(f"error: {error}\n")
        return ExitCode.MISTAKE
    except OSError as error:  # a full disk, a folder that may not be written
        sys.stderr.write(f"error: {error}\n")
        return ExitCode.MISTAKE
    except Terminated:
        sys.stderr.write("terminated; the same command continues\n")
        return ExitCode.TERMINATED
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command continues\n")
        return ExitCode.INTERRUPTED
    if isinstance(outcome, bool):
        return ExitCode.OK if outcome else ExitCode.REFUSED
    return int(outcome)


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


def _terminate(*_: object) -> None:
    raise Terminated


class _Parser(argparse.ArgumentParser):
    """One that says a mistake in one line, without all that would have been right."""

    def error(self, message: str) -> NoReturn:
        """Ends with 2."""
        said = message.removeprefix("argument ")
        self.exit(ExitCode.MISTAKE, f"{self.prog}: {said} ({self.prog} --help says more)\n")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = _Parser(
        prog="python -m pipelines",
        description="Evaluate a Qwen3-ASR service, and let the evaluation decide over a canary.",
        epilog="Exit codes: 0 done or accepted, 1 refused, rolled back or too much failed, "
        "2 a mistake in the call, 3 undecided.",
    )
    added = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_evaluation(added)
    _add_rollout(added)
    command = _command(added, "compile", COMPILE, "commands:run_compile")
    options.add_compile(command)
    command = _command(added, "submit", SUBMIT, "commands:run_submit")
    options.add_submit(command)
    return parser


def _add_evaluation(added: Any) -> None:
    """What needs no cluster."""
    command = _command(added, "evaluate", EVALUATE, "commands:run_evaluate")
    options.add_service(command, checkpoint=True)
    options.add_data(command)
    options.add_scoring(command)
    options.add_failures(command)
    options.add_out(command)
    command = _command(added, "compare", COMPARE, "commands:run_compare")
    command.add_argument("stable", help="report.json of the stable version")
    command.add_argument("candidate", help="report.json of the candidate")
    options.add_gate(command)
    options.add_out(command, required=False)
    command = _command(added, "transcribe", TRANSCRIBE, "commands:run_transcribe")
    options.add_archive(command)
    options.add_service(command, checkpoint=True)
    options.add_failures(command)
    options.add_out(command)
    command = _command(added, "rescore", RESCORE, "commands:run_rescore")
    options.add_data(command)
    options.add_answers(command)
    options.add_scoring(command)
    options.add_out(command)
    command = _command(added, "trend", TREND, "commands:run_trend")
    command.add_argument("reports", nargs="+", help="report.json files, oldest first")
    options.add_out(command, required=False)
    command = _command(added, "plan", PLAN, "commands:run_plan")
    options.add_planning(command)


def _add_rollout(added: Any) -> None:
    """A canary: started, and taken hold of while it runs."""
    command = _command(added, "promote", PROMOTE, "rollout_commands:run_promote")
    rollout_options.add_cluster(command)
    rollout_options.add_candidate(command)
    options.add_service(command, ingress=True)
    options.add_data(command, required=False)
    options.add_scoring(command)
    options.add_gate(command)
    command.add_argument(
        "--drafts",
        action="store_true",
        help="hand the stable version's transcripts to a candidate that takes drafts; latency is "
        "not judged then",
    )
    rollout_options.add_plan(command)
    options.add_out(command, required=False)
    for name, text in (("rollback", ROLLBACK), ("abort", ABORT), ("pause", PAUSE)):
        command = _command(added, name, text, f"rollout_commands:run_{name}")
        rollout_options.add_cluster(command)
        command.add_argument("--reason", default="asked for by hand", help="kept in the state")
        if name != "pause":
            rollout_options.add_plan(command)
    command = _command(added, "resume", RESUME, "rollout_commands:run_resume")
    rollout_options.add_cluster(command)
    options.add_service(command, ingress=True)
    rollout_options.add_plan(command)
    rollout_options.add_cluster(_command(added, "status", STATUS, "rollout_commands:run_status"))


def _function(name: str) -> Callable[[argparse.Namespace], bool | int]:
    """A command's function, imported now: the Kubernetes client alone takes half a second."""
    module, _, function = name.partition(":")
    found: Callable[[argparse.Namespace], bool | int] = getattr(
        import_module(f"pipelines.{module}"), function
    )
    return found


def _command(added: Any, name: str, text: str, run: str) -> argparse.ArgumentParser:
    summary = text.partition("\n")[0].rstrip(".")
    command: argparse.ArgumentParser = added.add_parser(
        name,
        help=summary[0].lower() + summary[1:],
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--json", action="store_true", help="print the result as JSON")
    command.set_defaults(run=run)
    return command
