"""What the documents show runs, with curl and the clients that people have, and prints that."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.api.conftest import Server
from tests.docs.examples import Example, blocks, examples

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("README.md", "README.zh-CN.md", "predictor/api/README.md")
EXAMPLES = [
    pytest.param(example, id=f"{name}-{number}")
    for name in DOCUMENTS
    for number, example in enumerate(examples((ROOT / name).read_text("utf-8")))
]
# What a test may not do: sets up, downloads, talks to a cluster, a GPU or another package manager.
OUT_OF_REACH = re.compile(
    r"make |pip install|model_id|hf download|modelscope|docker|kubectl|pipelines promote|npm |java "
)


def run(example: Example, server: Server) -> subprocess.CompletedProcess[str]:
    """With the server's own addresses in place of the default ones."""
    source = example.source.replace("http://127.0.0.1:8080", server.url)
    source = source.replace("127.0.0.1:8080", server.url.removeprefix("http://"))
    source = source.replace("127.0.0.1:8081", server.grpc)
    command = (
        ["bash", "-euc", source] if example.language == "sh" else [sys.executable, "-c", source]
    )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PATH": path, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_prints_what_it_is_shown_with(example: Example, server: Server) -> None:
    if "curl" in example.source and shutil.which("curl") is None:
        pytest.skip("curl is not installed (Debian: curl)")
    done = run(example, server)
    assert done.returncode == 0, done.stderr
    assert example.matches(done.stdout), f"{done.stdout}\nis not\n{example.shown}"


def test_an_output_that_differs_is_noticed() -> None:
    example = Example("sh", "", "{…7:30.…}\n")
    assert example.matches('{"text":"at 7:30.","usage":{}}\n')
    assert not example.matches('{"text":"at 7:31.","usage":{}}\n')
    with pytest.raises(ValueError, match="no output"):
        examples("```sh\nls\n```\n")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_only_what_a_test_cannot_do_is_not_run(name: str) -> None:
    for language, source in blocks((ROOT / name).read_text("utf-8")):
        assert language in ("sh", "python", "text", "console", "mermaid", "json", "js", "java"), (
            source
        )
        if language == "console":
            assert OUT_OF_REACH.search(source), source


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if name.startswith("README")])
def test_both_readmes_are_short_and_show_the_same(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    assert len(text.splitlines()) <= 250
    english = (ROOT / "README.md").read_text("utf-8")
    shown = [block for block in blocks(text) if block[0] != "mermaid"]
    assert shown == [block for block in blocks(english) if block[0] != "mermaid"]


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in sorted(ROOT.glob("**/*.md"))
        if not {".venv", "node_modules", "out", ".pytest_cache"} & set(path.parts)
    ],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text("utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        target, _, fragment = link.partition("#")
        if "://" in target:
            continue
        file = path.parent / target if target else path
        assert file.exists(), link
        if fragment and file.suffix == ".md":
            assert fragment in anchors(file.read_text("utf-8")), link


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to headings."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
