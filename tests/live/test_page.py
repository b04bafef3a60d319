"""The page in a real browser: headless Chromium whose microphone plays a recording."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.api.conftest import Server
from tests.live.streams import alone, join

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SAID = "Today is Tuesday, May thirty-first."
SIZES = {"phone": {"width": 390, "height": 844}, "desktop": {"width": 1280, "height": 800}}

expect.set_options(timeout=60_000)  # on a busy machine
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sentences in two languages, as a WAV file."""
    stream = join("page", ["en-short-003", "zh-short-002"], 1, pauses_s=(1.0, 1.0))
    samples = np.concatenate([np.zeros(8_000, np.float32), stream.samples])
    path = tmp_path_factory.mktemp("page") / "two.wav"
    soundfile.write(path, samples, 16_000, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first of them alone."""
    path = tmp_path_factory.mktemp("page") / "one.wav"
    soundfile.write(path, alone("en-short-003").samples, 16_000, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def browser(recording: Path) -> Iterator[Browser]:
    """Chromium with a microphone that plays `recording` once."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--use-fake-ui-for-media-stream",
                "--use-fake-device-for-media-stream",
                f"--use-file-for-fake-audio-capture={recording}%noloop",
                "--autoplay-policy=no-user-gesture-required",
            ],
        )
        yield browser
        browser.close()


class Visit:
    """A page that is open, and what went wrong on it."""

    def __init__(self, browser: Browser, url: str, size: str = "desktop", **more: Any) -> None:
        context = browser.new_context(viewport=SIZES[size], permissions=["microphone"], **more)
        context.set_default_timeout(60_000)
        self.page: Page = context.new_page()
        self.problems: list[str] = []
        self.page.on("console", lambda m: m.type == "error" and self.problems.append(m.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.goto(url)

    def close(self) -> None:
        self.page.context.close()


@pytest.fixture
def visit(browser: Browser, server: Server) -> Iterator[Any]:
    """Opens the page; closed when the test ends."""
    opened: list[Visit] = []

    def open_page(size: str = "desktop", url: str = "", **more: Any) -> Visit:
        opened.append(Visit(browser, url or server.url + "/", size, **more))
        return opened[-1]

    yield open_page
    for each in opened:
        each.close()


def test_what_is_spoken_appears_and_is_downloaded(visit: Any, tmp_path: Path) -> None:
    there = visit("phone")
    page = there.page
    page.get_by_role("button", name="Speak").click()
    expect(page.locator(".tail .word").first).to_be_attached(timeout=60_000)
    expect(page.locator(".item").first).to_contain_text(SAID, timeout=60_000)
    expect(page.locator("#status")).to_contain_text(re.compile(r"delay \d+ ms"))
    expect(page.locator(".item")).to_have_count(2, timeout=60_000)
    expect(page.get_by_role("button", name="JSON")).to_be_enabled()
    expect(page.locator(".time:not(:empty)")).to_have_count(2)
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#status")).to_have_text("Done")
    for size in SIZES.values():
        page.set_viewport_size(size)
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        expect(page.get_by_role("button", name="Speak")).to_be_in_viewport()
    files = {}
    for name in ("TXT", "SRT", "VTT", "JSON"):
        with page.expect_download() as download:
            page.get_by_role("button", name=name).click()
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        files[name] = path.read_text("utf-8")
    assert files["TXT"].splitlines()[0] == SAID
    assert re.match(r"1\n00:00:0\d,\d{3} --> 00:00:0\d,\d{3}\nToday", files["SRT"])
    assert files["VTT"].startswith("WEBVTT\n\n00:00:0")
    items = json.loads(files["JSON"])
    assert [item["language"] for item in items] == ["English", "Chinese"]
    assert all(0 < word["confidence"] <= 1 for item in items for word in item["words"])
    assert there.problems == []


def test_a_recording_is_opened_or_dropped(visit: Any, one: Path, tmp_path: Path) -> None:
    there = visit()
    page = there.page
    page.locator("#file").set_input_files(one)
    expect(page.locator("#status")).to_have_text("Done")
    expect(page.locator(".item").first).to_contain_text(SAID)
    page.get_by_role("button", name="Clear").click()
    expect(page.locator(".item")).to_have_count(0)
    data = page.evaluate_handle(
        """bytes => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(bytes)], "one.wav", {type: "audio/wav"}));
          return transfer;
        }""",
        list(one.read_bytes()),
    )
    page.dispatch_event("#transcript", "drop", {"dataTransfer": data})
    page.dispatch_event("#transcript", "drop", {"dataTransfer": data})  # waits for the first
    expect(page.locator(".item")).to_have_count(2)
    page.locator(".time").first.click()  # plays what was said
    (tmp_path / "notes.txt").write_text("no sound")
    page.locator("#file").set_input_files(tmp_path / "notes.txt")
    expect(page.locator("#status")).to_contain_text("cannot be decoded")
    expect(page.locator(".item").nth(1)).to_contain_text(SAID)
    assert there.problems == []


def test_a_word_is_heard_by_mouse_and_by_keyboard(visit: Any, one: Path) -> None:
    """What would be played is noted: how many samples, at which rate."""
    there = visit()
    page = there.page
    page.evaluate(
        """() => { window.played = []; const make = AudioContext.prototype.createBuffer;
        AudioContext.prototype.createBuffer = function (channels, length, rate) {
          played.push(length / rate); return make.call(this, channels, length, rate); }; }"""
    )
    page.locator("#file").set_input_files(one)
    expect(page.locator("#status")).to_have_text("Done")
    expect(page.locator("#announced")).not_to_be_empty()
    first = page.locator(".item").first
    words = first.locator(".word.timed")
    expect(words).to_have_count(5)
    words.nth(2).click()  # "Tuesday,"
    first.locator(".time").focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.textContent") == "Today"
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")  # all of it
    tuesday, today, whole = page.evaluate("played")
    assert 0.2 < tuesday < 1
    assert 0.2 < today < 1
    assert whole > tuesday + today
    assert there.problems == []


def test_the_language_is_chosen_and_hot_words_are_sent(visit: Any, one: Path) -> None:
    there = visit()
    sent: list[str] = []
    there.page.on("websocket", lambda socket: sent.append(socket.url))
    there.page.locator("#language").select_option("zh")
    there.page.locator("summary").click()
    there.page.locator("#hotwords").fill("Tuesday, Verna")
    there.page.locator("#file").set_input_files(one)
    expect(there.page.locator("#status")).to_have_text("Done")
    assert "language=zh" in sent[0]
    assert "context=Tuesday%2C+Verna" in sent[0]


def test_it_speaks_chinese_and_remembers(visit: Any) -> None:
    there = visit(locale="zh-CN")
    expect(there.page.locator("#speak")).to_have_text("开始说话")
    assert there.page.locator("html").get_attribute("lang") == "zh-CN"
    there.page.locator("#interface").select_option("en")
    there.page.reload()
    expect(there.page.locator("#speak")).to_have_text("Speak")


def test_dark_follows_the_system_and_the_button_and_can_be_read(visit: Any) -> None:
    page = visit(color_scheme="dark").page
    page.evaluate(
        """() => { const p = document.createElement('p'); p.className = 'item';
        for (const c of ['word', 'word mid', 'word low', 'tail']) {
          const s = document.createElement('span'); s.className = c; s.textContent = 'x';
          p.append(s); }
        document.getElementById('items').append(p); }"""
    )
    assert page.locator("html").get_attribute("data-theme") == "dark"
    _check_contrast(page)
    page.get_by_role("button", name="Dark").click()
    assert page.locator("html").get_attribute("data-theme") == "light"
    _check_contrast(page)


def _check_contrast(page: Page) -> None:
    """WCAG's contrast of 4.5 for every text, and for the words' shades."""
    found = page.evaluate(
        """() => [...document.querySelectorAll('h1, p, button:enabled, label span:not(.hidden), '
          + 'summary, .item span, .primary')].map(e => { let b = e, back;
          while (!back && b) { const c = getComputedStyle(b).backgroundColor;
            if (c !== 'rgba(0, 0, 0, 0)') back = c; b = b.parentElement; }
          return [e.textContent.trim().slice(0, 20), getComputedStyle(e).color, back]; })"""
    )
    assert len(found) > 8
    for text, front, back in found:
        assert _contrast(front, back) >= 4.5, (text, front, back)


def _contrast(front: str, back: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(front), luminance(back)))
    return (high + 0.05) / (low + 0.05)


def test_the_keyboard_reaches_everything_and_a_screen_reader_is_told(visit: Any) -> None:
    page = visit().page
    assert page.locator("#announced").get_attribute("aria-live") == "polite"
    assert page.locator("#status").get_attribute("role") == "status"
    for control in page.locator("button, select, input").all():
        name = control.evaluate("e => e.textContent.trim() || e.labels?.[0]?.textContent.trim()")
        assert name
    reached = []
    for _ in range(9):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert reached[:7] == ["A", "interface", "theme", "speak", "file", "language", "SUMMARY"]
    page.locator("#speak").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#speak")).to_have_text("Stop")
    page.keyboard.press("Escape")
    expect(page.locator("#speak")).to_have_text("Speak")


def test_nothing_comes_from_elsewhere(server: Server, visit: Any) -> None:
    asked: list[str] = []
    there = visit(url="about:blank")
    there.page.on("request", lambda request: asked.append(request.url))
    there.page.goto(server.url + "/")
    assert len(asked) >= 7
    assert all(url.startswith(server.url) for url in asked)
    policy = httpx.get(server.url, headers={"accept": "text/html"}).headers
    assert "default-src 'none'" in policy["content-security-policy"]
    blocked = there.page.evaluate(
        "async () => { try { await fetch('https://example.com'); return 'loaded'; }"
        " catch { return 'blocked'; } }"
    )
    assert blocked == "blocked"
    assert any("Content Security Policy" in problem for problem in there.problems)


def test_probes_still_get_their_answer(server: Server, brief: Server) -> None:
    browser = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    assert httpx.get(server.url).json() == {"status": "alive"}
    assert "<html" in httpx.get(server.url, headers=browser).text
    assert httpx.get(brief.url, headers=browser).json() == {"status": "alive"}
    assert httpx.get(brief.url + "/page/app.js").status_code == 404
    script = httpx.get(server.url + "/page/app.js")
    again = {"if-none-match": script.headers["etag"]}
    assert httpx.get(server.url + "/page/app.js", headers=again).status_code == 304
    assert httpx.get(server.url + "/page/..%2Fpage.py").status_code == 404


def test_a_key_is_asked_for(guarded: Server, visit: Any, one: Path) -> None:
    there = visit(url=guarded.url + "/")
    page = there.page
    page.locator("#file").set_input_files(one)
    expect(page.locator("#status")).to_contain_text("API key")
    page.locator("summary").click()
    page.locator("#key").fill("right")
    page.locator("#file").set_input_files(one)
    expect(page.locator("#status")).to_have_text("Done")
    expect(page.locator(".item").first).to_contain_text(SAID)


def test_a_proxy_may_put_it_under_a_sub_path(server: Server, browser: Browser, one: Path) -> None:
    context = browser.new_context()
    page = context.new_page()
    outside = "http://asr.example.test/speech/live/"

    def forward(route: Any) -> None:
        path = route.request.url.removeprefix(outside)
        answer = httpx.get(f"{server.url}/{path}", headers=route.request.headers)
        route.fulfill(status=answer.status_code, headers=dict(answer.headers), body=answer.content)

    sockets: list[str] = []
    page.route(re.compile("^http://asr.example.test/"), forward)
    page.route_web_socket(
        re.compile("^ws://asr.example.test/"), lambda socket: sockets.append(socket.url)
    )
    page.goto(outside)
    page.locator("#file").set_input_files(one)
    expect(page.locator("#status")).to_have_text(re.compile("Connecting"))
    assert sockets[0].startswith("ws://asr.example.test/speech/live/api/v1/live?rate=16000")
    context.close()
