"""What is beside the overlays: the cluster's prerequisites, the images, the README."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.manifests import pod_rules, service_rules
from tests.manifests.conftest import OVERLAYS, needs_kustomize, needs_schemas
from tests.manifests.objects import MANIFESTS, ROOT, build, of_kind
from tests.manifests.schemas import problems

README = (MANIFESTS / "README.md").read_text()
DOCKERFILES = sorted(
    [*ROOT.glob("*/Dockerfile"), *MANIFESTS.rglob("Dockerfile")], key=lambda path: str(path)
)

# Every module of ours, with the packages that the image leaves out made unimportable.
IMPORT_PIPELINES = """
import importlib, pkgutil, sys
for heavy in ("torch", "torchaudio", "transformers", "kserve", "safetensors"):
    sys.modules[heavy] = None
import pipelines
for module in pkgutil.walk_packages(pipelines.__path__, "pipelines."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""


@needs_kustomize
@needs_schemas
@pytest.mark.parametrize("folder", ["cluster/gpu", "cluster/knative"])
def test_cluster_folders_fit_their_schemas(folder: str) -> None:
    objects = build(MANIFESTS / folder)
    assert [problem for each in objects for problem in problems(each)] == []
    assert list(pod_rules.images_pinned(objects)) == []
    assert list(service_rules.selectors(objects)) == []


@needs_kustomize
def test_the_device_plugin_runs_where_pods_may_and_reaches_the_kubelet() -> None:
    [plugin] = of_kind(build(MANIFESTS / "cluster/gpu"), "DaemonSet")
    pod = plugin["spec"]["template"]["spec"]
    tolerated = yaml.safe_load((MANIFESTS / "components/gpu/runtime.yaml").read_text())[2]["value"]
    assert pod["tolerations"] == tolerated
    mounts = {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounts == {"/var/lib/kubelet/device-plugins"}


def test_both_ways_to_set_knative_up_say_the_same() -> None:
    patch = yaml.safe_load((MANIFESTS / "cluster/knative/operator-patch.yaml").read_text())
    for name, values in patch["spec"]["config"].items():
        file = MANIFESTS / f"cluster/knative/config-{name}.yaml"
        assert yaml.safe_load(file.read_text())["data"] == values


@pytest.mark.parametrize("kind", ["overlays", "components"])
def test_the_readme_has_every_folder_in_its_table(kind: str) -> None:
    listed = {match[1] for match in re.finditer(r"^\| `([\w-]+)` \|", README, re.MULTILINE)}
    folders = {path.name for path in (MANIFESTS / kind).iterdir()}
    assert folders <= listed


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_readme_names_an_overlays_components(overlay: str) -> None:
    text = (MANIFESTS / "overlays" / overlay / "kustomization.yaml").read_text()
    used = [Path(name).name for name in yaml.safe_load(text).get("components", [])]
    [row] = [line for line in README.splitlines() if line.startswith(f"| `{overlay}` |")]
    assert re.findall(r"`([\w-]+)`", row.split("|")[3]) == used


def test_the_readmes_paths_exist() -> None:
    paths = set(re.findall(r"`((?:cluster|base|components|overlays)/[\w./-]+)`", README))
    assert len(paths) > 10
    assert [path for path in paths if not (MANIFESTS / path).exists()] == []
    shown = set(re.findall(r"manifests/((?:cluster|components|overlays|kind)/[\w./-]+)", README))
    assert [path for path in shown if not (MANIFESTS / path).exists()] == []


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_images_are_pinned_non_root_and_without_weights(file: Path) -> None:
    text = file.read_text()
    bases = re.findall(r"^ARG (?:PYTHON_IMAGE|BASE)=(\S+)", text, re.MULTILINE)
    assert bases
    assert all(re.search(r":[\w.-]*\d+\.\d+[\w.-]*|@sha256:", base) for base in bases)
    stages = re.findall(r"^FROM (\S+)(?: AS (\S+))?", text, re.MULTILINE)
    named = {name for _, name in stages}
    for base, _ in stages:
        assert base.startswith("${") or base in named or "${VARIANT}" in base, base
    last = text[text.rindex("\nFROM ") :]
    assert re.search(r"^USER 1000:1000$", last, re.MULTILINE)
    if file.parent.name != "modelcar":
        assert "safetensors" not in text
        assert "hf download" not in text


def test_code_comes_after_dependencies_in_the_predictors_layers() -> None:
    text = (ROOT / "predictor" / "Dockerfile").read_text()
    torch, others, code = (
        text.index("install --constraint requirements.lock torch torchaudio"),
        text.index("--requirement pyproject.toml"),
        text.index("COPY predictor predictor"),
    )
    assert torch < others < code


def test_the_build_context_lets_in_only_what_is_copied() -> None:
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in rules
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    for name in ("predictor", "pipelines"):
        text = (ROOT / name / "Dockerfile").read_text()
        copied = {
            source
            for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE)
            for source in line.split()[:-1]
        }
        assert copied <= allowed


def test_cpu_constraints_leave_out_cuda(tmp_path: Path) -> None:
    """The Dockerfile's own commands on our lock: torch's CPU build, and nothing of CUDA's."""
    text = (ROOT / "predictor" / "Dockerfile").read_text()
    sed = re.search(r"(sed -n .*?) requirements.lock > torch.txt", text)
    awk = re.search(r"(awk .*?) requirements.lock > constraints.txt", text)
    assert sed is not None
    assert awk is not None

    def run(command: str) -> str:
        line = ["sh", "-c", f"{command} {ROOT / 'requirements.lock'}"]
        return subprocess.run(line, capture_output=True, text=True, check=True).stdout

    assert re.fullmatch(r"torch==[\d.]+\+cpu\ntorchaudio==[\d.]+\+cpu\n", run(sed[1]))
    left = set(re.findall(r"^([a-z][\w.-]*)==", run(awk[1]), re.MULTILINE))
    assert {"kserve", "transformers", "numpy"} <= left
    assert not [name for name in left if re.match(r"nvidia|cuda|triton$|torch$|torchaudio$", name)]


def test_the_pipelines_image_needs_nothing_that_it_does_not_install() -> None:
    """Its own selection of packages, and every module of ours imported with nothing else there."""
    text = (ROOT / "pipelines" / "Dockerfile").read_text()
    chosen = re.search(r'python -c "(.*)" > pipelines.txt', text)
    assert chosen is not None
    script = ["sh", "-c", f'{sys.executable} -c "{chosen[1]}"']  # as docker would run it
    wanted = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {"av", "numpy", "soundfile", "kfp", "jiwer"} <= {
        re.split(r"[<>=\[]", line)[0] for line in wanted.splitlines()
    }
    assert "torch" not in wanted
    imported = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IMPORT_PIPELINES],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert imported.returncode == 0, imported.stderr


def test_the_pipelines_gpu_image_has_what_the_predictors_has() -> None:
    """A step that loads a checkpoint starts the predictor, whose kernels need a C compiler."""
    pipelines, predictor = (
        (ROOT / name / "Dockerfile").read_text() for name in ("pipelines", "predictor")
    )
    assert re.search(r"--requirement pyproject.toml --extra pipelines$", pipelines, re.MULTILINE)
    assert "COPY predictor predictor" in pipelines
    runtimes = [text.split(" AS runtime-gpu\n")[1] for text in (pipelines, predictor)]
    assert runtimes[0].split("\nFROM ")[0] == runtimes[1].split("\nFROM ")[0]


def test_the_compiled_pipelines_name_the_images_that_make_builds() -> None:
    dry = ["make", "--dry-run", "--always-make", "image-pipelines", "image-pipelines-gpu"]
    lines = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    built = set(re.findall(r"--tag (\S+)", lines))
    used = {
        image
        for path in (ROOT / "pipelines" / "compiled").glob("*.yaml")
        for image in re.findall(r"^ +image: (\S+)$", path.read_text(), re.MULTILINE)
    }
    assert used == built


def test_kinds_script_is_shell() -> None:
    script = MANIFESTS / "kind" / "up.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert script.stat().st_mode & 0o100
