"""Whatever a document names is there: its commands are understood, its files and settings exist."""

from __future__ import annotations

import re
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest

from pipelines.cli import build_parser
from predictor.cli.errors import CliError
from predictor.cli.main import COMMANDS
from predictor.settings.doc import help_text
from predictor.settings.fields import ENV_PREFIX, specs
from predictor.settings.parse import parse_text
from predictor.settings.read import SettingsError, load_settings
from tests.docs.metrics_table import markdown_table
from tests.docs.named import ROOT, Command, commands, documents, files, spans

DOCUMENTS = [pytest.param(path, id=str(path.relative_to(ROOT))) for path in documents()]
TARGETS = set(re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.M)[0].split())
METRICS = set(re.findall(r"^\| `(\w+)`", markdown_table(), re.MULTILINE))
# Not of this tree: an operator makes them, or they are in a container or another repository.
ELSEWHERE = ("models/", "out/", "recordings/", "set/", "calls/")


def problem(command: Command) -> str | None:
    """Why a call would not be understood."""
    first, *rest = command.words
    if first == "make":
        missing = [word for word in rest if "=" not in word and word not in TARGETS]
        return f"no target {missing}" if missing else None
    if first == "qwen3-asr":
        return of_command_line(rest)
    if first == "python" and rest[0] == "-m":
        return of_module(rest[1], rest[2:])
    if first == "bash":
        return None
    for flag, value in pairwise(rest):
        is_ours = value.startswith(("manifests/", "cluster/"))
        is_there = (ROOT / value).exists() or (ROOT / "manifests" / value).exists()
        if flag in ("-k", "-f", "--patch-file") and is_ours and not is_there:
            return f"no {value}"
    return None


def of_module(name: str, arguments: list[str]) -> str | None:
    """Of `python -m`."""
    if find_spec(name) is None:
        return f"no module {name}"
    if name == "pipelines":
        if len(arguments) == 1:  # the command's name alone
            arguments = [*arguments, "--help"]
        try:
            build_parser().parse_args(arguments)
        except SystemExit as error:
            return None if error.code == 0 else "not understood"
    if name == "predictor":
        return of_settings(arguments)
    if name == "predictor.cli":
        return of_command_line(arguments)
    if name == "pytest":
        paths = [word for word in arguments if word.startswith("tests/")]
        return next((f"no {path}" for path in paths if not (ROOT / path).exists()), None)
    return None


def of_command_line(arguments: list[str]) -> str | None:
    """Of `qwen3-asr`; parsed as it would be, and no further."""
    name, *rest = arguments or ["--help"]
    if name.startswith("-"):
        return None
    if name not in COMMANDS:
        return f"no command {name}"
    if name in ("serve", "doctor"):
        return of_settings(rest)
    if name == "settings":
        return None if set(rest) <= {"--check", "FILE", "--effective"} else "not understood"
    from predictor.cli import bench, live, transcribe, verify

    module = {"bench": bench, "live": live, "transcribe": transcribe, "verify": verify}[name]
    rest = [word.replace("URL", "http://h") if word == "URL" else word for word in rest]
    try:
        module._parser().parse_args([word for word in rest if word != "…"])
    except CliError as error:
        return None if "required: --url" in str(error) and not rest else str(error)
    except SystemExit:  # --help
        return None
    return None


def of_settings(arguments: list[str]) -> str | None:
    """As flags."""
    given = [word for word in arguments if word not in ("…", "[--SETTING", "VALUE]")]
    try:
        load_settings(given, {}, Path("/absent"))
    except SettingsError as error:
        return str(error)
    except SystemExit:
        return None
    return None


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_are_understood(document: Path) -> None:
    found = [(str(call), problem(call)) for call in commands(document.read_text("utf-8"))]
    assert [each for each in found if each[1] is not None] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_settings_exist_and_take_their_values(document: Path) -> None:
    known = specs()
    variables = {ENV_PREFIX + name.upper() for name in known} | {f"{ENV_PREFIX}CONFIG_FILE"}
    for span in spans(document.read_text("utf-8")):
        for name in re.findall(rf"\b{ENV_PREFIX}[A-Z_]+", span):
            short = name.removeprefix(ENV_PREFIX)
            is_of_tests = short in ("ENTRY", "GATEWAY", "IMAGE", "WEIGHTS_IMAGE")
            assert name in variables or is_of_tests or name == ENV_PREFIX, span
        if (given := re.fullmatch(r"([a-z_]+)=([^\s…]+)", span)) and given[1] in known:
            parse_text(known[given[1]][0], given[2])


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_and_metrics_exist(document: Path) -> None:
    text = document.read_text("utf-8")
    assert [each for each in files(text, document) if not each.startswith(ELSEWHERE)] == []
    for name in re.findall(r"`(qwen3_asr_\w+)`", text):
        plain = re.sub(r"_(bucket|sum|count)$", "", name)
        assert plain in METRICS, name


def test_what_is_wrong_is_noticed(tmp_path: Path) -> None:
    text = (
        "`make tset`, `qwen3-asr transcribe --jobs x`, `python -m pipelines evaluat`, `a=1`\n"
        "```sh\nPORT=1 python -m predictor --vad none | cat   # speech\n"
        "kubectl apply -k manifests/absent && python -m tests.absent\n```\n`tests/absent.py`\n"
    )
    found = [problem(call) for call in commands(text)]
    assert len(found) == 6
    assert None not in found
    assert list(files(text, tmp_path / "README.md")) == ["tests/absent.py"]
    assert "--model_dir" in help_text()
