"""What the documents show runs, with curl and the clients that people have, and prints that."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from predictor.demo import ALIGNER
from tests.api.conftest import Server, StartServer
from tests.docs.examples import Example, blocks, examples
from tests.docs.named import documents

ROOT = Path(__file__).parents[2]
# Of the server's own documents; those that need more than `make serve` has, with what they need.
DOCUMENTS = ("README.md", "README.zh-CN.md", "predictor/api/README.md")
FULL = ("predictor/README.md", "predictor/jobs/README.md")
EXAMPLES = [
    pytest.param(example, id=f"{name}-{number}")
    for name in DOCUMENTS
    if name != "README.zh-CN.md"  # shows the same, which a test below holds
    for number, example in enumerate(examples((ROOT / name).read_text("utf-8")))
]
MORE_EXAMPLES = [
    pytest.param(example, id=f"{name}-{number}")
    for name in FULL
    for number, example in enumerate(examples((ROOT / name).read_text("utf-8")))
]
KINDS = ("sh", "python", "text", "console", "mermaid", "js", "java")
# What a test may not do: sets up, downloads, talks to a cluster, a GPU or another package manager.
OUT_OF_REACH = re.compile(
    r"make |pip install|store\.example|model_id|hf download|modelscope|docker|kubectl"
    r"|pipelines promote|npm |java "
)


def run(example: Example, server: Server, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """With the server's own addresses in place of the default ones."""
    source = example.source.replace("127.0.0.1:8080", server.url.removeprefix("http://"))
    source = source.replace("127.0.0.1:8081", server.grpc)
    if folder != ROOT:
        source = source.replace("predictor/recordings", str(ROOT / "predictor" / "recordings"))
    if example.language == "sh":
        return execute("bash", "-euc", source, cwd=folder)
    return execute(sys.executable, "-c", source, cwd=folder)


def execute(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """With the `python` of this environment first on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, encoding="utf-8", timeout=600
    )


def foreign(language: str, server: Server) -> str:
    """The one example in another language, with addresses and files that are right anywhere."""
    text = (ROOT / "predictor/api/README.md").read_text("utf-8")
    [source] = [content for name, content in blocks(text) if name == language]
    source = source.replace("127.0.0.1:8080", server.url.removeprefix("http://"))
    return source.replace("predictor/recordings", str(ROOT / "predictor" / "recordings"))


CLIENTS = ROOT / "tests" / "clients"


@pytest.mark.skipif(
    shutil.which("node") is None or not (CLIENTS / "node_modules" / "openai").is_dir(),
    reason="node or OpenAI's SDK for it is missing (make test installs the SDK with npm)",
)
def test_the_example_for_node(server: Server) -> None:
    done = execute("node", "--input-type=module", "-e", foreign("js", server), cwd=CLIENTS)
    assert done.stdout.strip() == "Remind me to call my sister at 7:30.", done.stderr


@pytest.mark.skipif(shutil.which("java") is None, reason="no JDK (Debian: default-jdk-headless)")
def test_the_example_for_java(server: Server, tmp_path: Path) -> None:
    lines = foreign("java", server)
    main = f"public static void main(String[] a) throws Exception {{\n{lines}}}"
    (tmp_path / "Ask.java").write_text(f"public class Ask {{ {main} }}\n")
    done = execute("java", str(tmp_path / "Ask.java"))
    assert "Remind me to call my sister at 7:30." in done.stdout, done.stderr


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_prints_what_it_is_shown_with(example: Example, server: Server) -> None:
    if "curl" in example.source and shutil.which("curl") is None:
        pytest.skip("curl is not installed (Debian: curl)")
    done = run(example, server)
    assert done.returncode == 0, done.stderr
    assert example.matches(done.stdout), f"{done.stdout}\nis not\n{example.shown}"


@pytest.fixture(scope="module")
def full(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """What `make serve` starts, and jobs."""
    jobs = str(tmp_path_factory.mktemp("jobs"))
    return start_server(f"--aligner_dir={ALIGNER}", f"--jobs_dir={jobs}", "--enable_page=true")


@pytest.mark.parametrize("example", MORE_EXAMPLES)
def test_an_example_of_words_and_jobs_prints_what_it_is_shown_with(
    example: Example, full: Server, tmp_path: Path
) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed (Debian: curl)")
    done = run(example, full, tmp_path)
    assert done.returncode == 0, done.stderr
    assert example.matches(done.stdout), f"{done.stdout}\nis not\n{example.shown}"


def test_an_output_that_differs_is_noticed() -> None:
    example = Example("sh", "", "{…7:30.…}\n")
    assert example.matches('{"text":"at 7:30.","usage":{}}\n')
    assert not example.matches('{"text":"at 7:31.","usage":{}}\n')
    with pytest.raises(ValueError, match="no output"):
        examples("```sh\nls\n```\n")


@pytest.mark.parametrize("name", [*DOCUMENTS, *FULL])
def test_only_what_a_test_cannot_do_is_not_run(name: str) -> None:
    for language, source in blocks((ROOT / name).read_text("utf-8")):
        is_call = re.search(r"^\$ |^curl |^python ", source, re.MULTILINE) and "┌" not in source
        assert language in KINDS or not is_call, source
        if language == "console":
            assert OUT_OF_REACH.search(source), source


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if name.startswith("README")])
def test_both_readmes_are_short_and_show_the_same(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    assert len(text.splitlines()) <= 250
    english = (ROOT / "README.md").read_text("utf-8")
    shown = [block for block in blocks(text) if block[0] != "mermaid"]
    assert shown == [block for block in blocks(english) if block[0] != "mermaid"]


def shape(text: str) -> dict[str, list[str]]:
    """What a translation leaves as it is: headings' levels, lists, tables, links, code, numbers."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", prose) if link[0] != "#"]
    return {
        "headings": re.findall(r"^(#+) ", prose, re.MULTILINE),
        "lists and tables": re.findall(r"^(?:- |\|)", prose, re.MULTILINE),
        "links": sorted(link for link in links if not link.startswith("README")),
        "code": sorted(set(re.findall(r"`([^`\n]+)`", prose))),
        "numbers": sorted(re.findall(r"(?<![\w.,])\d[\d,.]*\d|(?<![\w.])\d(?![\w.])", prose)),
    }


def test_the_twin_says_as_much() -> None:
    english, chinese = (
        shape((ROOT / name).read_text("utf-8")) for name in ("README.md", "README.zh-CN.md")
    )
    for what, found in english.items():
        assert chinese[what] == found, what


LONGEST = {"README.md": 250, "README.zh-CN.md": 250}  # lines; of other documents 400


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_are_short_enough_to_be_read(path: Path) -> None:
    lines = path.read_text("utf-8").splitlines()
    assert len(lines) <= LONGEST.get(str(path.relative_to(ROOT)), 400)


@pytest.mark.parametrize(
    "path",
    [*documents(), ROOT / "CHANGELOG.md"],
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
