"""Takes the README's pictures of the page: headless Chromium, whose microphone plays recordings.

python -m tests.live.pictures    # writes docs/live-desktop.png, docs/live-phone.png

Needs Debian's `chromium` and `fonts-noto-cjk`.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from playwright.sync_api import expect, sync_playwright

from pipelines.local_service import LocalService

ROOT = Path(__file__).parents[2]
CHECKPOINTS = ROOT / "predictor" / "checkpoints"
RECORDINGS = ("demo-en-1", "demo-zh-5", "demo-en-2", "demo-zh-4", "demo-en-3")
PAUSE_S = 1.2
expect.set_options(timeout=120_000)


@dataclass(frozen=True)
class Picture:
    """How the page is looked at, and until which utterance."""

    name: str
    size: tuple[int, int]
    theme: str
    locale: str
    utterances: int


PICTURES = (
    Picture("live-desktop", (1000, 640), "light", "en-US", 5),
    Picture("live-phone", (390, 760), "dark", "zh-CN", 4),
)


def spoken(folder: Path) -> Path:
    """The bundled recordings, one after another."""
    parts: list[np.ndarray] = []
    for name in RECORDINGS:
        samples, rate = soundfile.read(ROOT / "predictor" / "recordings" / f"{name}.flac")
        parts += [np.zeros(round(PAUSE_S * rate)), samples]
    path = folder / "spoken.wav"
    soundfile.write(path, np.concatenate(parts), rate, subtype="PCM_16")
    return path


def take(browser: Any, url: str, picture: Picture) -> None:
    """Speak until an utterance grows, and look."""
    width, height = picture.size
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=picture.theme,
        locale=picture.locale,
        permissions=["microphone"],
    )
    page = context.new_page()
    page.goto(url)
    page.locator("#speak").click()
    items = page.locator(".item")
    expect(items).to_have_count(picture.utterances)
    expect(items.last.locator(".tail .word").first).to_be_visible()
    page.screenshot(path=ROOT / "docs" / f"{picture.name}.png")
    context.close()


def main() -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    flags = ("--device=cpu", "--enable_page=true", f"--aligner_dir={CHECKPOINTS / 'tiny-aligner'}")
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalService(CHECKPOINTS / "tiny", flags=flags) as service,
        sync_playwright() as playwright,
    ):
        microphone = spoken(Path(folder))
        for picture in PICTURES:  # each with a browser of its own, which plays from the beginning
            browser = playwright.chromium.launch(
                executable_path=chromium,
                args=[
                    "--use-fake-ui-for-media-stream",
                    "--use-fake-device-for-media-stream",
                    f"--use-file-for-fake-audio-capture={microphone}%noloop",
                ],
            )
            take(browser, service.url + "/", picture)
            browser.close()


if __name__ == "__main__":
    main()
