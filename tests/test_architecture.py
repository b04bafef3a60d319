"""Packages import downwards only, and what must stay light imports nothing heavy."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "predictor"

# Each line may import from the lines above it and from itself.
LAYERS = [
    {"types", "errors"},
    {"settings", "metrics", "logs", "processes", "book", "tracing"}
    | {"shared_samples", "growing_samples"},
    {"text", "model"},
    {"audio"},
    {"engine", "align"},
    {"startup"},
    {"live"},
    {"service"},
    {"jobs"},
    {"api"},
    {"ports"},
    {"server"},
    {"front", "pod"},
    {"__main__"},
    {"demo"},
    {"cli"},
]
LEAVES = ["types", "errors", "metrics", "settings.fields"]
# No torch: bookkeeping that is tested and reasoned about alone, and what a process pays to start.
LIGHT = [
    "predictor.audio.worker",
    "predictor.audio.pool",
    "predictor.audio.limits",
    "predictor.engine.link.process",
    "predictor.engine.link.remote",
    "predictor.align.client",
    "predictor.align.process",
    "predictor.service.aligner",
    "predictor.pod",
    "predictor.processes",
    "predictor.startup",
    "predictor.settings.read",
    "predictor.model.checkpoint.readahead",
    "predictor.text.tokenizer",
    "predictor.metrics",
    "predictor.types",
]
TORCH_FREE_FILES = [
    "engine/scheduler.py",
    "engine/sequence.py",
    "engine/options.py",
    "engine/client.py",
    "engine/core.py",
    "engine/link/wire.py",
]


def modules() -> dict[str, Path]:
    """Dotted name below `predictor` -> file."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        found[name] = path
    found.pop("__init__")
    return found


def imports(path: Path) -> set[str]:
    """Absolute names of all modules that the file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            if node.module == "predictor":
                names = {alias.name for alias in node.names} - {"__version__"}
                found |= {f"predictor.{name}" for name in names}
    return found


def ours(path: Path) -> set[str]:
    """First part, below `predictor`, of what the file imports from the project."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("predictor.")}


def layer(name: str) -> int:
    top = name.split(".")[0]
    return next(index for index, names in enumerate(LAYERS) if top in names)


def test_every_module_has_its_layer() -> None:
    tops = {name.split(".")[0] for name in modules()}
    assert tops <= set().union(*LAYERS)


@pytest.mark.parametrize("name", modules())
def test_imports_go_downwards_only(name: str) -> None:
    upwards = {other for other in ours(modules()[name]) if layer(other) > layer(name)}
    assert not upwards


def test_layers_of_one_line_do_not_know_each_other() -> None:
    for name, path in modules().items():
        top = name.split(".")[0]
        beside = LAYERS[layer(name)] - {top}
        known = {("logs", "settings"), ("processes", "settings")}
        assert {(top, other) for other in ours(path) & beside} <= known, name


@pytest.mark.parametrize("name", LEAVES)
def test_leaves_import_nothing_from_other_packages(name: str) -> None:
    assert ours(modules()[name]) <= {name.split(".")[0]}


def test_only_the_server_wires() -> None:
    """Classes that hold threads, processes or the device are built nowhere else.

    The engine's process builds the engine, and nothing besides.
    """
    wired = {"AudioDecoder", "Transcriber", "Admission", "Metrics", "AsrModel"}
    wired |= {"build_engine", "CoreProcess", "RemoteCore", "EngineClient"}
    wired |= {"AlignerProcess", "AlignerClient"}
    for name, path in modules().items():
        calls = {
            node.func.id
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        allowed = {"CoreProcess", "AlignerProcess"} if name == "pod" else set()
        allowed |= {"build_engine"} if name in ("engine.link.worker", "service.loading") else set()
        allowed |= (
            {"CoreProcess", "RemoteCore", "EngineClient"} if name == "service.loading" else set()
        )
        assert name.split(".")[0] == "server" or calls & wired <= allowed, name


@pytest.mark.parametrize("file", TORCH_FREE_FILES)
def test_bookkeeping_needs_no_torch(file: str) -> None:
    heavy = {"torch", "torchaudio", "transformers"}
    assert not {name.split(".")[0] for name in imports(PACKAGE / file)} & heavy


@pytest.mark.parametrize("name", LIGHT)
def test_light_modules_load_nothing_heavy(name: str) -> None:
    script = (
        f"import sys, {name}\n"
        "heavy = {'torch', 'torchaudio', 'transformers', 'kserve', 'fastapi'}\n"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == []


def test_the_way_of_a_request_is_a_dozen_files_that_exist() -> None:
    """tests/api/test_way.py holds them to the calls of a real request."""
    text = (PACKAGE / "README.md").read_text(encoding="utf-8")
    way = text.partition("## The way of a request")[2].partition("\n## ")[0]
    steps = re.findall(r"^\d+\. (.*)", way, re.MULTILINE)
    assert 8 <= len(steps) <= 12
    for step in steps:
        links = re.findall(r"\[(\S+)\]\((\S+)\)", step)
        assert links
        assert all(name == link and (PACKAGE / link).is_file() for name, link in links), links
    assert all((PACKAGE / link).exists() for link in re.findall(r"\]\(([^)#]+)\)", text))
