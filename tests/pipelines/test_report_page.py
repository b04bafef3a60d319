"""Reports and comparisons opened in Chromium from the disk: what a person does with them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from playwright.sync_api import Page, sync_playwright

from pipelines.lib.compare import compare_reports
from pipelines.lib.evaluation import Report, build_report
from pipelines.lib.journal import Record
from pipelines.lib.manifest import Clip
from pipelines.lib.render import comparison_html, report_html
from tests.pipelines.made_up import OPTIONS

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
TONES_HZ = (500, 1000, 2000)
# The row of a canvas that is brightest, as a share of its height from below.
BRIGHTEST = """
(canvas) => {
  const { width, height } = canvas;
  const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
  const rows = Array.from({ length: height }, (_, y) => {
    let sum = 0;
    for (let x = 0; x < width; x++) sum += data[4 * (y * width + x)];
    return sum;
  });
  return 1 - (rows.indexOf(Math.max(...rows)) + 0.5) / height;
}
"""


class Opened:
    """A page from the disk, and what it asked for or complained of."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.asked: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda said: self.complaints.append(said.text))

    def show(self, path: Path) -> Page:
        self.page.goto(path.as_uri())
        return self.page

    def check(self) -> None:
        """It stands alone: nothing but itself was asked for, and nothing went wrong."""
        assert [url for url in self.asked if not url.startswith(("file:", "data:"))] == []
        assert self.complaints == []


@pytest.fixture
def opened() -> Iterator[Opened]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--autoplay-policy=no-user-gesture-required"]
        )
        found = Opened(browser.new_page())
        yield found
        browser.close()


def evaluated(folder: Path, heard: list[str], title: str) -> Report:
    clips = []
    for tone, text in zip(
        TONES_HZ, ("one good day", "two good days", "three good days"), strict=True
    ):
        seconds = np.arange(16_000) / 16_000
        soundfile.write(folder / f"{tone}.wav", 0.5 * np.sin(2 * np.pi * tone * seconds), 16_000)
        clips.append(Clip(str(tone), str(folder / f"{tone}.wav"), text, "English", 1.0,
                          tags={"room": ("hall" if tone > 500 else "lab",)}))  # fmt: skip
    records = [
        Record(clip.id, text, "English", 0.5, 1.0, latency_s=0.1)
        for clip, text in zip(clips, heard, strict=True)
    ]
    return build_report(clips, records, OPTIONS, title=title)


def plays(page: Page, which: str) -> None:
    page.eval_on_selector(which, "(audio) => audio.play()")
    page.wait_for_function("(which) => document.querySelector(which).currentTime > 0.1", arg=which)


def test_a_report_filters_sorts_shows_and_plays(tmp_path: Path, opened: Opened) -> None:
    report = evaluated(tmp_path, ["one good day", "two bad days", "a bad day"], "in a browser")
    (tmp_path / "report.html").write_text(report_html(report), encoding="utf-8")
    page = opened.show(tmp_path / "report.html")
    rows = page.locator("#clips tbody tr")

    def ids() -> list[str]:
        return rows.locator("td:first-child").all_inner_texts()

    assert (page.title(), ids()) == ("in a browser", ["2000", "1000", "500"])  # worst first
    page.click("#clips th[data-key=id]")
    page.click("#clips th[data-key=id]")
    assert ids() == ["1000", "2000", "500"]  # as names, from A to Z
    page.fill("#clips-filter", "room:hall two")
    assert ids() == ["1000"]
    assert page.inner_text("#clips-count") == "1 of 3"
    rows.first.click()
    details = rows.nth(1)
    assert "said: two good days" in details.inner_text()
    assert "written: two bad days" in details.inner_text()
    assert (details.locator("del").inner_text(), details.locator("ins").inner_text()) == (
        "good", "bad",
    )  # fmt: skip
    plays(page, "#clips audio")
    assert page.locator("canvas").count() == 0  # drawn when it is asked for
    details.get_by_text("spectrogram").click()
    canvas = page.wait_for_selector("#clips canvas")
    assert canvas is not None
    assert canvas.evaluate(BRIGHTEST) == pytest.approx(1000 / 8000, abs=0.01)  # of 0 to 8 kHz
    plays(page, "#sound-0")
    opened.check()


def test_a_comparison_begins_with_the_regression_and_plays_it(
    tmp_path: Path, opened: Opened
) -> None:
    stable = evaluated(tmp_path, ["one bad day", "two good days", "three good days"], "stable")
    candidate = evaluated(tmp_path, ["one good day", "two good days", "so it goes"], "candidate")
    html = comparison_html(compare_reports(stable, candidate))
    (tmp_path / "comparison.html").write_text(html, encoding="utf-8")
    page = opened.show(tmp_path / "comparison.html")
    clips = page.locator(".clip")
    heads = clips.locator("div:first-child").all_inner_texts()
    assert heads == ["2000 · English · +3 errors", "500 · English · -1 errors"]
    assert "stable: 3 good days" in clips.first.inner_text()  # normalised
    assert " ".join(clips.first.locator("del").all_inner_texts()) == "3 good days"
    assert " ".join(clips.first.locator("ins").all_inner_texts()) == "so it goes"
    plays(page, ".clip audio")
    opened.check()
