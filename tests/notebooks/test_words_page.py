"""The rows of words in a browser: a click plays the word and stops behind it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from pipelines.lib.render import words_html

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
CLIP = Path(__file__).parents[2] / "predictor" / "recordings" / "demo-en-1.flac"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


def test_a_click_plays_the_word_and_stops_behind_it(tmp_path: Path) -> None:
    words = [
        {"word": "Remind", "start": 0.352, "end": 0.752, "confidence": 0.9},
        {"word": "<me>", "start": 0.752, "end": 0.91},
        {"word": "sister", "start": 1.6, "end": 2.0, "confidence": 0.8},
    ]
    page_file = tmp_path / "words.html"
    page_file.write_text(words_html("clip", CLIP.read_bytes(), words), "utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"],
        )
        page = browser.new_page()
        page.goto(page_file.as_uri())
        assert page.get_by_role("button").count() == len(words)
        assert page.locator("td").nth(4).inner_text() == "<me>"
        sound = "document.querySelector('audio')"
        page.wait_for_function(f"{sound}.readyState >= 2", timeout=60_000)
        page.evaluate(f"{sound}.addEventListener('playing', () => {{ window.began = true }})")
        page.get_by_role("button").nth(2).click()
        page.wait_for_function(f"window.began && {sound}.paused", timeout=60_000)
        ended_s = page.evaluate(f"{sound}.currentTime")
        browser.close()
    assert ended_s >= 2.0  # how soon after depends on the machine
