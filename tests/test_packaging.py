"""What is imported is declared and the other way round; the wheel works outside of this tree."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
# Module -> distribution, where the names differ.
DISTRIBUTIONS = {
    "google": "protobuf",
    "grpc": "grpcio",
    "kfp_server_api": "kfp-server-api",
    "lingua": "lingua-language-detector",
    "mlflow": "mlflow-skinny",
    "opentelemetry": "opentelemetry-api",
    "prometheus_client": "prometheus-client",
    "pynvml": "nvidia-ml-py",
    "whisper_normalizer": "whisper-normalizer",
    "yaml": "pyyaml",
}
# Declared and imported nowhere in our code, and why.
BY_OTHERS = {
    "python-multipart": "starlette reads forms with it",
    "torchaudio": "silero-vad takes any; it must fit torch",
    "pyarrow": "data sets' Parquet, named in a string",
    "s3fs": "fsspec opens s3:// with it",
    "kfp-kubernetes": "kfp's pipelines",
    "opentelemetry-exporter-otlp-proto-http": "found by OpenTelemetry by its entry point",
    "opentelemetry-sdk": "KServe traces with it",
}
WITH_OTHERS = {"triton": "torch on Linux brings the one that fits it"}


def third_party(package: str) -> set[str]:
    """Distributions that the package's modules import, in whatever way."""
    found = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found |= set(imported(node))
    ours = {"predictor", "pipelines", "tests", *sys.stdlib_module_names}
    return {DISTRIBUTIONS.get(m, m.replace("_", "-")) for m in found - ours} - set(WITH_OTHERS)


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name.split(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [node.module.split(".")[0]]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        name = (
            node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        )
        if name in ("import_module", "find_spec") and isinstance(node.args[0].value, str):
            return [node.args[0].value.split(".")[0]]
    return []


def declared(*groups: str) -> set[str]:
    lines = [*PROJECT["dependencies"], *(line for group in groups for line in EXTRAS[group])]
    return {Requirement(line).name for line in lines} - {PROJECT["name"]}


OPTIONAL = {
    "predictor": ("cjk", "nvml", "tracing"),
    "pipelines": ("pipelines", "languages", "tracking", "buckets"),
}


@pytest.mark.parametrize("package", OPTIONAL)
def test_what_is_imported_is_declared(package: str) -> None:
    assert third_party(package) <= declared(*OPTIONAL[package])


@pytest.mark.parametrize(
    "extra", ["pipelines", "languages", "tracking", "buckets", "cjk", "tracing"]
)
def test_what_is_declared_is_used(extra: str) -> None:
    used = third_party("predictor") | third_party("pipelines") | set(BY_OTHERS)
    assert {Requirement(line).name for line in EXTRAS[extra]} <= used


def test_what_serving_declares_serving_uses() -> None:
    assert declared() <= third_party("predictor") | set(BY_OTHERS)


def test_versions_that_must_fit_are_pinned_to_each_other() -> None:
    pins = {r.name: str(r.specifier) for r in map(Requirement, PROJECT["dependencies"])}
    assert pins["torch"].startswith("==")
    assert pins["torchaudio"] == pins["torch"]


def test_the_lock_and_this_environment_are_within_what_is_declared() -> None:
    locked = dict(
        re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    )
    for requirement in map(Requirement, PROJECT["dependencies"]):
        if requirement.name in locked:
            assert requirement.specifier.contains(locked[requirement.name]), requirement
        here = importlib.metadata.version(requirement.name)
        assert requirement.specifier.contains(here), requirement


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the console scripts of a wheel in an environment of its own.

    The packages that it depends on are those of this environment: a copy would be gigabytes.
    """
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory"]
    subprocess.run([*build, str(folder)], cwd=ROOT, check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=False, symlinks=True)
    [site] = (folder / "env/lib").glob("python*/site-packages")
    install = [sys.executable, "-m", "pip", "--python", str(folder / "env/bin/python"), "install"]
    install += ["--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, cwd=folder, check=True, capture_output=True)
    # Not through a .pth of theirs: an editable install of this tree would hide the wheel.
    shared = [path for path in sys.path if path.endswith("site-packages")]
    (site / "shared.pth").write_text("".join(f"{path}\n" for path in shared))
    return folder / "env/bin"


def test_the_wheel_transcribes_from_any_folder(installed: Path, tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def run(*arguments: str) -> str:
        command = [str(installed / "qwen3-asr"), *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    code = "import predictor; print(predictor.__file__)"
    python = [str(installed / "python"), "-c", code]
    where = subprocess.run(python, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert Path(where.stdout.strip()).is_relative_to(installed.parent)
    assert run("--version").startswith("qwen3-asr ")
    recordings = Path(where.stdout.strip()).parent / "recordings"
    said = run("transcribe", "--checkpoint", "tiny", str(recordings / "demo-en-1.flac"))
    assert said == "Remind me to call my sister at 7:30.\n"
