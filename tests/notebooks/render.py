"""Run every notebook against the embedded checkpoints and write it as HTML: `make notebooks`.

    python -m tests.notebooks.render --out out/notebooks

A variable that is set already is left as it is: ASR_URL=https://... shows that service instead.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbconvert import HTMLExporter

from tests.notebooks.local_site import ROOT, TINY, local_canary, local_site

FOLDER = ROOT / "notebooks"
CELL_TIMEOUT_S = 600


def main(argv: Sequence[str] | None = None) -> None:
    """Render all notebooks, or the named ones."""
    names = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
    parser = argparse.ArgumentParser(prog="python -m tests.notebooks.render", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the HTML files")
    parser.add_argument("notebooks", nargs="*", metavar="NAME", help=f"of {', '.join(names)}")
    args = parser.parse_args(argv)
    if unknown := set(args.notebooks) - set(names):
        parser.error(f"{', '.join(sorted(unknown))}: not one of {', '.join(names)}")
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with local_site(folder) as site, local_canary(site, folder) as canary:
            plain = {"ASR_URL": site.services[TINY], "ASR_OUT": str(folder / "evaluation")}
            for name in args.notebooks or names:
                environment = canary.environment if "canary" in name else plain
                print(f"{name} ...", flush=True)
                path = args.out / f"{name}.html"
                path.write_text(as_html(execute(name, {**environment, **os.environ})), "utf-8")
                print(f"{name}: {path}", flush=True)


def execute(name: str, environment: Mapping[str, str]) -> nbformat.NotebookNode:
    """A notebook with its outputs, run in its folder by a kernel with this environment.

    Raises CellExecutionError for the first cell that fails.
    """
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    resources = {"metadata": {"path": str(FOLDER)}}
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT_S,
        startup_timeout=CELL_TIMEOUT_S,  # nbclient gives a busy machine 60 s
        resources=resources,
        coalesce_streams=True,  # a progress bar is its last line, not all of them
    )
    client.execute(env={**environment, "PYTHONPATH": str(ROOT)})
    return notebook


def as_html(notebook: nbformat.NotebookNode) -> str:
    """One page, with figures and sounds inside."""
    page: str = HTMLExporter(embed_images=True).from_notebook_node(notebook)[0]
    return page


if __name__ == "__main__":
    main()
