"""What is beside the overlays: the cluster's prerequisites, the images, the README."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.manifests import combinations, pod_rules, service_rules
from tests.manifests.conftest import KNATIVE, OVERLAYS, needs_kustomize, needs_schemas
from tests.manifests.objects import MANIFESTS, ROOT, Object, build, of_kind
from tests.manifests.schemas import problems

README = (MANIFESTS / "README.md").read_text()
COMPONENTS = combinations.DOCUMENT.read_text()
TABLES = README + COMPONENTS
DOCKERFILES = sorted(
    [*ROOT.glob("*/Dockerfile"), *MANIFESTS.rglob("Dockerfile")], key=lambda path: str(path)
)
# A version for people and a digest for machines: a tag alone may point elsewhere tomorrow.
PINNED = re.compile(r"[\w./-]+:\d+\.\d+[\w.-]*@sha256:[0-9a-f]{64}")

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

LOAD_WITHOUT_A_NAME = """
import pwd
from pathlib import Path

def nobody(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")

pwd.getpwuid = nobody
import torch
from predictor.model.checkpoint.weights import load_model
load_model(Path("predictor/checkpoints/tiny"), device="cpu", dtype=torch.float32)
"""


@needs_kustomize
@needs_schemas
@pytest.mark.parametrize("folder", ["cluster/gpu", "cluster/logging"])
def test_cluster_folders_fit_their_schemas(folder: str) -> None:
    objects = build(MANIFESTS / folder)
    assert [problem for each in objects for problem in problems(each)] == []
    assert list(pod_rules.images_pinned(objects)) == []
    assert list(service_rules.selectors(objects)) == []


@needs_kustomize
def test_a_daemon_set_that_selects_nothing_is_caught() -> None:
    objects = copy.deepcopy(build(MANIFESTS / "cluster/logging"))
    [each] = of_kind(objects, "DaemonSet")
    each["spec"]["selector"]["matchLabels"]["x"] = "y"
    assert "does not match its template" in next(service_rules.selectors(objects))


# As KServe 0.20.0 installs it, and then as its documentation has it for a Knative without Istio.
KSERVES_INGRESS = """{
    "enableGatewayApi": false,
    "kserveIngressGateway": "kserve/kserve-ingress-gateway",
    "ingressGateway" : "knative-serving/knative-ingress-gateway",
    "localGateway" : "knative-serving/knative-local-gateway",
    "localGatewayService" : "knative-local-gateway.istio-system.svc.cluster.local",
    "ingressDomain"  : "example.com",
    "ingressClassName" : "istio",
    "domainTemplate": "{{ .Name }}-{{ .Namespace }}.{{ .IngressDomain }}",
    "urlScheme": "http",
    "disableIstioVirtualHost": true,
    "disableIngressCreation": false,
    "disableHTTPRouteTimeout": false
}"""


def ingress_after(before: str, hostname: str, folder: Path) -> dict[str, Any]:
    """KServe's `ingress` once cluster/gateway/apply.sh has run against a `kubectl` of ours."""
    kubectl, patch = folder / "kubectl", folder / "patch"
    (folder / "before").write_text(before)
    kubectl.write_text(
        f"""#!/bin/sh
case "$1 $2" in
"get --filename") printf '%s' '{hostname}' ;;
"get configmap") cat '{folder}/before' ;;
"patch configmap") while [ "$1" != --patch ]; do shift; done; printf '%s' "$2" >'{patch}' ;;
esac
"""
    )
    kubectl.chmod(0o755)
    path = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    subprocess.run([MANIFESTS / "cluster/gateway/apply.sh"], env=path, check=True)
    found: dict[str, Any] = json.loads(yaml.safe_load(patch.read_text())["data"]["ingress"])
    return found


def test_the_gateways_listener_covers_kserves_host_names(tmp_path: Path) -> None:
    """By KServe's own template of a service's host name, filled in as its controller does."""
    gateway = yaml.safe_load((MANIFESTS / "cluster/gateway/gateway.yaml").read_text())
    [listener] = gateway["spec"]["listeners"]
    ingress = ingress_after(KSERVES_INGRESS, listener["hostname"], tmp_path)
    filled = {"Name": "qwen3-asr", "Namespace": "speech", "IngressDomain": ingress["ingressDomain"]}
    host = re.sub(r"{{ \.(\w+) }}", lambda found: filled[found[1]], ingress["domainTemplate"])
    assert host == "qwen3-asr-speech.asr.example.com"
    assert listener["hostname"] == "*." + host.split(".", 1)[1]
    assert ingress["urlScheme"] == listener["protocol"].lower() == "https"
    assert ingress["enableGatewayApi"] is True
    where = f"{gateway['metadata']['namespace']}/{gateway['metadata']['name']}"
    assert ingress["kserveIngressGateway"] == where


@pytest.mark.parametrize(
    "before",
    [
        KSERVES_INGRESS,
        '{"disableIstioVirtualHost": true, "urlScheme": "http"}',
        '{"pathTemplate": "/{{ .Name }}"}',
        "{}",
    ],
)
def test_the_gateway_leaves_kserves_other_settings(before: str, tmp_path: Path) -> None:
    """Kourier needs disableIstioVirtualHost: without it nobody answers at status.url."""
    ours = ingress_after("{}", "*.asr.example.com", tmp_path)
    after = ingress_after(before, "*.asr.example.com", tmp_path)
    assert after == {**json.loads(before), **ours}
    again = ingress_after(json.dumps(after), "*.asr.example.com", tmp_path)
    assert again == after


@needs_kustomize
def test_the_device_plugin_runs_where_pods_may_and_reaches_the_kubelet() -> None:
    [plugin] = of_kind(build(MANIFESTS / "cluster/gpu"), "DaemonSet")
    pod = plugin["spec"]["template"]["spec"]
    tolerated = yaml.safe_load((MANIFESTS / "components/gpu/runtime.yaml").read_text())[2]["value"]
    assert pod["tolerations"] == tolerated
    mounts = {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounts == {"/var/lib/kubelet/device-plugins"}


@needs_schemas
def test_what_the_clusters_scripts_send_fits_its_schemas() -> None:
    files = [
        *MANIFESTS.glob("cluster/knative/config-*.yaml"),
        *MANIFESTS.glob("cluster/gateway/*.yaml"),
    ]
    assert len(files) == 4
    objects = [yaml.safe_load(file.read_text()) for file in files]
    assert [problem for each in objects for problem in problems(each)] == []


@pytest.mark.parametrize("script", sorted(MANIFESTS.glob("cluster/*/apply.sh")), ids=str)
def test_a_configuration_of_others_is_patched_and_not_applied(script: Path) -> None:
    """Applying would take away every key that is not in the file."""
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert script.stat().st_mode & 0o100
    lines = [line.strip() for line in script.read_text().splitlines() if "kubectl " in line]
    applied = [line for line in lines if line.startswith("kubectl apply")]
    assert [line for line in applied if "gateway.yaml" not in line] == []
    patched = [line for line in lines if line.startswith("kubectl patch configmap")]
    assert patched
    assert all("--type merge" in line for line in patched)


def test_knatives_settings_wait_for_the_webhook_that_judges_them(tmp_path: Path) -> None:
    """Against a `kubectl` of ours that says what a cluster did whose Knative was just installed."""
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(
        f"""#!/bin/sh
case "$*" in
wait*condition=Available*deployment/webhook*knative-serving*) touch '{tmp_path}/waited' ;;
patch*) [ -e '{tmp_path}/waited' ] || {{
    echo 'failed calling webhook "config.webhook.serving.knative.dev": no endpoints available' >&2
    exit 1
    }} ;;
esac
"""
    )
    kubectl.chmod(0o755)
    path = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    script = MANIFESTS / "cluster/knative/apply.sh"
    done = subprocess.run([script], env=path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_both_ways_to_set_knative_up_say_the_same() -> None:
    patch = yaml.safe_load((MANIFESTS / "cluster/knative/operator-patch.yaml").read_text())
    for name, values in patch["spec"]["config"].items():
        file = MANIFESTS / f"cluster/knative/config-{name}.yaml"
        assert yaml.safe_load(file.read_text())["data"] == values


@pytest.mark.parametrize("kind", ["overlays", "components"])
def test_every_folder_is_in_a_table(kind: str) -> None:
    listed = {match[1] for match in re.finditer(r"^\| `([\w-]+)` \|", TABLES, re.MULTILINE)}
    folders = {path.name for path in (MANIFESTS / kind).iterdir()}
    assert folders <= listed


def test_the_document_says_what_goes_together() -> None:
    """Every overlay with every component: offered, contained, or a reason against it."""
    assert combinations.between(COMPONENTS) == combinations.table(), (
        "run: python -m tests.manifests.combinations"
    )


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_readme_names_an_overlays_components(overlay: str) -> None:
    text = (MANIFESTS / "overlays" / overlay / "kustomization.yaml").read_text()
    used = [Path(name).name for name in yaml.safe_load(text).get("components", [])]
    assert re.findall(r"`([\w-]+)`", row_of(overlay).split("|")[3]) == used


def row_of(name: str) -> str:
    [row] = [line for line in TABLES.splitlines() if line.startswith(f"| `{name}` |")]
    return row


def flags_needed(objects: list[Object]) -> set[str]:
    """Knative's feature flags without which its webhook refuses these objects, by short name."""
    refused = " ".join(pod_rules.knative_refusals(objects, ()))
    return set(re.findall(r"flag kubernetes\.podspec-([\w-]+)", refused))


@needs_kustomize
@pytest.mark.parametrize("overlay", ["dev-cpu", "production"])
def test_the_readme_names_the_flags_that_an_overlay_needs(overlay: str, built: Any) -> None:
    named = set(re.findall(r"affinity|tolerations|topologyspread\w*", row_of(overlay)))
    assert named == flags_needed(built(f"overlays/{overlay}"))


@needs_kustomize
@pytest.mark.parametrize("choice", [names for names in KNATIVE if len(names) == 1], ids=str)
def test_the_readme_names_the_flags_that_a_component_needs(
    choice: tuple[str, ...], built: Any
) -> None:
    named = set(re.findall(r"podspec-(\w[\w-]*\w)", row_of(choice[0])))
    assert named == flags_needed(built(choice))


def test_the_readmes_paths_exist() -> None:
    texts = TABLES + (MANIFESTS / "IMAGES.md").read_text()
    paths = set(re.findall(r"`((?:cluster|base|components|overlays)/[\w./-]+)`", texts))
    assert len(paths) > 10
    assert [path for path in paths if not (MANIFESTS / path).exists()] == []
    shown = set(re.findall(r"manifests/((?:cluster|components|overlays|kind)/[\w./-]+)", README))
    assert [path for path in shown if not (MANIFESTS / path).exists()] == []


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_images_are_pinned_non_root_and_without_weights(file: Path) -> None:
    text = file.read_text()
    [base] = re.findall(r"^ARG (?:PYTHON_IMAGE|BASE)=(\S+)", text, re.MULTILINE)
    assert PINNED.fullmatch(base), base
    for syntax in re.findall(r"^# syntax=(\S+)", text, re.MULTILINE):
        assert PINNED.fullmatch(syntax), syntax
    stages = re.findall(r"^FROM (\S+)(?: AS (\S+))?", text, re.MULTILINE)
    named = {name for _, name in stages}
    for parent, _ in stages:
        assert parent.startswith("${") or parent in named or "${VARIANT}" in parent, parent
    last = text[text.rindex("\nFROM ") :]
    assert re.search(r"^USER 1000:1000$", last, re.MULTILINE)
    if file.parent.name != "modelcar":
        assert "safetensors" not in text
        assert "hf download" not in text


def test_a_tag_alone_does_not_pin() -> None:
    assert PINNED.fullmatch("python:3.11.16-slim-bookworm@sha256:" + "a" * 64)
    assert not PINNED.fullmatch("python:3.11.16-slim-bookworm")
    assert not PINNED.fullmatch("python:slim@sha256:" + "a" * 64)


def test_both_images_stand_on_one_base() -> None:
    texts = [(ROOT / name / "Dockerfile").read_text() for name in ("predictor", "pipelines")]
    bases = {re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", text, re.MULTILINE)[0] for text in texts}
    assert len(bases) == 1


@pytest.mark.parametrize("name", ["predictor", "pipelines"])
def test_a_change_of_code_changes_the_last_layer_only(name: str) -> None:
    """Steps follow one another inside the image; a copied environment would be a single layer."""
    text = (ROOT / name / "Dockerfile").read_text()
    stages = re.findall(r"^FROM (\S+)(?: AS (\S+))?\n(.*?)(?=^FROM |\Z)", text, re.M | re.S)
    parents = {name: parent.replace("${VARIANT}", "gpu") for parent, name, _ in stages}
    bodies = {name: body for _, name, body in stages}
    chain = [""]  # the last stage has no name
    while chain[-1] in parents:
        chain.append(parents[chain[-1]])
    assert chain.pop() == "${PYTHON_IMAGE}"
    assert len(chain) >= 4, chain
    assert not [stage for stage in chain if re.search("^COPY", bodies[stage], re.MULTILINE)]
    assert [stage for stage in chain if "from=package" in bodies[stage]] == chain[:1]


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


def test_torchs_packages_are_locked_apart(tmp_path: Path) -> None:
    """The Dockerfile's own commands on our lock: nothing twice, nothing lost, CUDA with torch."""
    text = (ROOT / "predictor" / "Dockerfile").read_text()
    [commands] = re.findall(r"^RUN (awk .*?[^\\])\n", text, re.MULTILINE | re.DOTALL)
    lock = (ROOT / "requirements.lock").read_text()
    (tmp_path / "requirements.lock").write_text(lock)
    subprocess.run(["sh", "-ec", commands], cwd=tmp_path, check=True)

    def names(text: str) -> set[str]:
        return set(re.findall(r"^([a-z0-9][\w.-]*)==", text, re.MULTILINE))

    torch, others = ((tmp_path / f"{part}.lock").read_text() for part in ("torch", "others"))
    assert sorted((torch + others).splitlines()) == sorted(lock.splitlines())
    assert {"torch", "torchaudio", "triton", "nvidia-cublas"} <= names(torch)
    assert {"kserve", "transformers", "numpy", "tritonclient"} <= names(others)
    assert not [name for name in names(others) if re.match(r"nvidia|cuda|triton$|torch", name)]
    cpu = (tmp_path / "torch-cpu.txt").read_text()
    assert re.fullmatch(r"torch==[\d.]+\+cpu\ntorchaudio==[\d.]+\+cpu\n", cpu)


@pytest.mark.parametrize("name", ["predictor", "pipelines"])
def test_a_checkpoint_loads_under_a_uid_that_has_no_name(name: str) -> None:
    """KServe runs modelcar pods under a uid of its own, OpenShift every pod; torch wants a name."""
    last = (ROOT / name / "Dockerfile").read_text().split("\nFROM ")[-1]
    [block] = re.findall(r"^ENV (PATH=.*?[^\\])\n", last, re.MULTILINE | re.DOTALL)
    env = dict(pair.split("=", 1) for pair in block.replace("\\\n", " ").split())
    loaded = subprocess.run(
        [sys.executable, "-c", LOAD_WITHOUT_A_NAME],
        cwd=ROOT,
        env=env | {"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert loaded.returncode == 0, loaded.stderr


def test_the_pipelines_image_needs_nothing_that_it_does_not_install() -> None:
    """Its own selection of packages, and every module of ours imported with nothing else there."""
    text = (ROOT / "pipelines" / "Dockerfile").read_text()
    chosen = re.search(r'python -c "(.*)" > pipelines.txt', text)
    assert chosen is not None
    script = ["sh", "-c", f'{sys.executable} -c "{chosen[1]}"']  # as docker would run it
    wanted = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {"av", "numpy", "soundfile", "kfp", "jiwer", "s3fs"} <= {
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
    wanted = r"--requirement \S*pyproject.toml --extra pipelines --extra buckets$"
    assert re.search(wanted, pipelines, re.MULTILINE)
    assert "COPY predictor predictor" in pipelines
    runtimes = [text.split(" AS base-gpu\n")[1] for text in (pipelines, predictor)]
    assert runtimes[0].split("\nFROM ")[0] == runtimes[1].split("\nFROM ")[0]


@pytest.mark.parametrize(
    ("variant", "called"), [("gpu", "-m predictor.engine.start.precompile"), ("cpu", "")]
)
def test_the_gpu_image_gets_its_kernels_compiled(variant: str, called: str, tmp_path: Path) -> None:
    """The Dockerfile's own command, with a Python that says how it is called."""
    last = (ROOT / "predictor" / "Dockerfile").read_text().split("\nFROM ")[-1]
    assert "\nARG VARIANT\n" in last
    [command] = re.findall(r"^RUN (if .*precompile.*)$", last, re.MULTILINE)
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\nprintf %s "$*"\n')
    python.chmod(0o755)
    environment = {"PATH": os.defpath, "VARIANT": variant, "VIRTUAL_ENV": str(tmp_path)}
    done = subprocess.run(
        ["sh", "-c", command], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == called


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
