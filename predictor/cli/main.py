"""`qwen3-asr`: everything that is done at a terminal, as one command with subcommands.

A subcommand is the module of its name in this package and is imported only when it runs, so that
help costs nothing.
"""

from __future__ import annotations

import difflib
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

from predictor import __version__
from predictor.cli.errors import FAILED, INTERRUPTED, MISTAKE, OK, CliError

COMMANDS: Final = {
    "serve": "serve a checkpoint over HTTP and gRPC",
    "transcribe": "transcribe files, folders or standard input, here or with a running service",
    "live": "send a file or the microphone to a service as live speech",
    "verify": "compare a checkpoint here with transformers' own model, stage by stage",
    "bench": "measure throughput and latency on this machine, as JSON",
    "doctor": "check device, packages, checkpoint, ports and settings, and say what to do",
    "settings": "print the table of settings, or check a settings file",
}
_ALIASES: Final = {"help": "--help", "version": "--version"}
_USAGE: Final = """\
usage: qwen3-asr COMMAND [OPTION ...]     (qwen3-asr COMMAND --help says more)

{commands}

Try it with the checkpoint and a recording that are part of the package:
  qwen3-asr transcribe --checkpoint tiny --demo
Serve a real one:
  qwen3-asr serve --model_dir /models/Qwen3-ASR-1.7B

Exit codes: 0 done; 1 part of it failed, or a check says no; 2 a mistake in the call; 130 Ctrl-C.
"""


def main() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without Chinese must end no run
            stream.reconfigure(errors="backslashreplace")
    code = run(sys.argv[1:])
    if code == INTERRUPTED:  # threads that wait for a service would keep the process
        sys.stdout.flush()
        os._exit(code)
    raise SystemExit(code)


def run(argv: Sequence[str]) -> int:
    """Run one command line; gives its exit code."""
    name = _ALIASES.get(argv[0], argv[0]) if argv else "--help"
    if name in ("-h", "--help"):
        sys.stdout.write(usage())
        return OK if argv else MISTAKE
    if name in ("-V", "--version"):
        sys.stdout.write(f"qwen3-asr {__version__}\n")
        return OK
    try:
        if name not in COMMANDS:
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(COMMANDS)}"
            raise CliError(f"no command {name!r}; {hint}")
        code: int = import_module(f"predictor.cli.{name}").run(list(argv[1:]))
        sys.stdout.flush()
    except CliError as error:
        sys.stderr.write(f"qwen3-asr: {error}\n")
        return error.code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # `| head` has seen enough
        _forget_output()
        return OK
    except OSError as error:  # of standard output, on a full disk
        _forget_output()
        sys.stderr.write(f"qwen3-asr: {error.strerror or error}\n")
        return FAILED
    return code


def _forget_output() -> None:
    """What could not be written is not tried again at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def usage() -> str:
    """What --help prints."""
    lines = (f"  {name:<11} {what}" for name, what in COMMANDS.items())
    return _USAGE.format(commands="\n".join(lines))
