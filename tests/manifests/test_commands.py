"""Every command in the manifests' documents is one: kubectl and our own parsers take it."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipelines.cli import build_parser
from tests.manifests.objects import MANIFESTS, ROOT

DOCUMENTS = sorted(MANIFESTS.glob("*.md"))
PLACES = {
    "YOUR-OVERLAY": "manifests/example",
    "NAMESPACE": "speech",
    "NODE": "node",
    "POD": "pod",
    "URI": "hf://owner/model:0123",
    "NS": "speech",
}
# What kubectl says to a command that it does not know, before it looks for a cluster.
WRONG = re.compile(r"unknown (flag|shorthand|command)|flag needs|required flag|error: .*must", re.I)
NOWHERE = ["--server=http://127.0.0.1:1", "--request-timeout=2s"]


def commands(program: str) -> list[str]:
    """Those of a program: lines of code blocks, and code in sentences and tables."""
    found = set()
    for document in DOCUMENTS:
        text = document.read_text()
        blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        lines = [line for block in blocks for line in block.splitlines()]
        lines += re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M))
        for line in lines:
            at = line.find(program + " ")
            if at == 0 or line[max(at - 2, 0) : at] == "$(":
                found.add(line[at:])
    return sorted(command for command in found if len(command.split()) > len(program.split()) + 1)


def words(command: str) -> list[str]:
    """Its arguments, with examples in the places and without what follows in a pipe."""
    for place, example in PLACES.items():
        command = re.sub(rf"\b{place}\b", example, command)
    plain = re.split(r" \| | &$|\)$", command)[0]
    return [word for word in shlex.split(plain)[1:] if word != "…"]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl on the PATH")
def test_kubectl_knows_every_command() -> None:
    listed = commands("kubectl")
    assert len(listed) > 15

    def complaint(command: str) -> str:
        arguments = ["kubectl", *words(command), *NOWHERE]
        try:
            done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=600)
        except subprocess.TimeoutExpired:
            return ""  # it waits for a cluster
        return f"{command}: {done.stderr}" if WRONG.search(done.stderr) else ""

    with ThreadPoolExecutor(4) as pool:
        assert [said for said in pool.map(complaint, listed) if said] == []


def test_a_wrong_flag_is_one() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl on the PATH")
    said = subprocess.run(
        ["kubectl", "get", "pods", "--nonsense"], capture_output=True, text=True
    ).stderr
    assert WRONG.search(said)


def test_the_pipelines_know_every_command() -> None:
    listed = commands("python -m pipelines")
    assert listed
    for command in listed:
        build_parser().parse_args(words(command)[2:])


def test_modules_that_are_named_exist() -> None:
    text = " ".join(document.read_text() for document in DOCUMENTS)
    for module in set(re.findall(r"python -m (tests[\w.]+)", text)):
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), module
