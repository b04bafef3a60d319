"""The report's table in a JavaScript engine: filters, sorts, and its spectrogram against numpy."""

from __future__ import annotations

import json
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.lib.clip_tables import table_json
from pipelines.lib.evaluation import ScoringOptions, build_report
from pipelines.lib.journal import Record
from pipelines.lib.manifest import Clip

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="needs node")

# As little of a page as the script touches.
PAGE = """
class Node {
  constructor(tag) { this.tag = tag; this.children = []; this.textContent = ""; this.dataset = {}; }
  append(...nodes) { this.children.push(...nodes); }
  after(node) { this.next = node; }
  replaceChildren() { this.children = []; }
}
const named = {};
for (const name of ["data", "filter", "count"]) named["clips-" + name] = new Node("div");
named["clips-data"].textContent = DATA;
named["clips-filter"].value = "";
const body = new Node("tbody");
const heads = ["id", "errors", "rate"].map((key) => {
  const head = new Node("th");
  head.dataset.key = key;
  return head;
});
globalThis.document = {
  getElementById: (id) => named[id], createElement: (tag) => new Node(tag),
  querySelector: () => body, querySelectorAll: () => heads,
};
const say = {};
const ids = () => body.children.map((line) => line.children[0].textContent);
"""
ASK = """
say.first = ids();
heads[1].onclick(); say.reversed = ids();
heads[0].onclick(); say.by_id = ids();
named["clips-filter"].value = "room:hall good";
named["clips-filter"].oninput(); say.filtered = ids();
say.count = named["clips-count"].textContent;
body.children[0].onclick();
const walk = (n) => typeof n === "string" ? n : n.textContent + n.children.map(walk).join("");
say.details = walk(body.children[0].next);
say.powers = powers(SAMPLES, 0, 512);
console.log(JSON.stringify(say));
"""


def run(data: str, samples: list[float]) -> dict[str, Any]:
    script = files("pipelines.lib").joinpath("templates", "table.js").read_text(encoding="utf-8")
    page = PAGE.replace("DATA", json.dumps(data))
    body = script.removeprefix('"use strict";').replace("const body =", "const rows =").replace(
        "body.replaceChildren", "rows.replaceChildren"
    ).replace("body.append(line)", "rows.append(line)")  # fmt: skip
    ask = ASK.replace("SAMPLES", json.dumps(samples))
    done = subprocess.run(
        [str(NODE), "-"], input=page + body + ask, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_table_filters_sorts_and_shows() -> None:
    texts = ["good day", "good <b>night</b>", "so it goes"]
    clips = [
        Clip(f"c{i}", f"/{i}.wav", text, "English", tags={"room": ("hall" if i else "lab",)})
        for i, text in enumerate(texts)
    ]
    heard = ["good day", "bad light", "so it went"]
    records = [Record(c.id, text, "English", 0.5) for c, text in zip(clips, heard, strict=True)]
    report = build_report(clips, records, ScoringOptions(num_resamples=100))
    samples = np.random.default_rng(0).normal(size=512)
    found = run(table_json(report, []), samples.tolist())
    assert found["first"] == ["c1", "c2", "c0"]
    assert found["reversed"] == ["c0", "c2", "c1"]
    assert found["by_id"] == ["c2", "c1", "c0"]
    assert (found["filtered"], found["count"]) == (["c1"], "1 of 3")
    assert "good <b>night</b>" in found["details"]  # as text, not as markup
    assert "audio not embedded: /1.wav" in found["details"]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    theirs = 10 * np.log10(np.abs(np.fft.rfft(samples * window)[:256]) ** 2 + 1e-10)
    assert found["powers"] == pytest.approx(theirs.tolist(), abs=1e-6)


def test_the_data_cannot_end_the_script() -> None:
    clips = [Clip("c", "/c.wav", "</script><script>alert(1)</script>", "English")]
    report = build_report(clips, [Record("c", "x", "English")], ScoringOptions(num_resamples=100))
    assert "<" not in table_json(report, [])
    assert Path(json.loads(table_json(report, []))[0]["audio"]).name == "c.wav"
