"""Every argument of every command, wrong in every way we know: one line, before heavy imports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from predictor.cli.main import run
from predictor.cli.recordings import BUNDLED
from predictor.settings.fields import Settings

CLIP = str(BUNDLED / "demo-en-1.flac")
LONG = "x" * 300
URLS = ("localhost", "ftp://here", "http://", "http://h:99999", "http://[::1", "http://a b")
URLS += ("http://u:p@h", "http://h/?key=1", "http://h:0", "ws://h")
NUMBERS = ("0", "-1", "nan", "inf", "many", "")
HERE = ("--demo", "--checkpoint", "tiny")
REMOTE = ("--demo", "--url", "http://h")

MISTAKES: list[tuple[list[str], str]] = [
    (["transcibe"], "no command 'transcibe'; did you mean transcribe?"),
    (["--verbose"], "no command '--verbose'"),
    *((["transcribe", "--demo", "--url", url], "--url: ") for url in URLS),
    *((["transcribe", *REMOTE, "--timeout", n], "--timeout") for n in NUMBERS),
    *((["transcribe", *HERE, "--jobs", n], "--jobs") for n in (*NUMBERS, "2.5", "100000")),
    (["transcribe"], "no recordings given"),
    (["transcribe", "absent.wav"], "absent.wav: No such file or directory"),
    (["transcribe", LONG], "File name too long"),
    (["transcribe", "{empty}"], "no recordings in"),
    (["transcribe", "{a}/same.wav", "{b}/same.wav", "--out", "{empty}"], "write the same file"),
    (["transcribe", "--demo", "--format", "doc"], "--format doc: is not one of txt, json"),
    (["transcribe", "--demo", "--format", ","], "--format: give at least one"),
    (["transcribe", "--demo", "--format", "srt"], "need --out FOLDER"),
    (["transcribe", "--demo"], "no checkpoint given"),
    (["transcribe", "--demo", "--checkpoint", "absent"], "model_dir absent: no such folder"),
    (["transcribe", "--demo", "--checkpoint", CLIP], "is a file; give the folder"),
    (["transcribe", "--demo", "--checkpoint", "{empty}"], "is empty"),
    (["transcribe", *HERE, "--set", "vad=of"], "vad='of' from flag --vad: must be one of"),
    (["transcribe", *HERE, "--set", "language=Elvish"], "language: unknown language 'Elvish'"),
    (["transcribe", *HERE, "--set", "vadd=off"], "flag '--vadd' is unknown; did you mean"),
    (["transcribe", *HERE, "--set", "vad"], "a value is missing"),
    (["transcribe", *HERE, "--set", ""], "flag '--' is unknown"),
    (["transcribe", *HERE, "--language", "Elvish"], "--language: unknown language 'Elvish'"),
    (["transcribe", *HERE, "--context", "\udcff"], "--context: must be UTF-8"),
    (["transcribe", *HERE, "--out", CLIP], "is a file; give a folder that is writable"),
    (["transcribe", *HERE, "--out", f"{CLIP}/below"], "is a file; give a folder that is writable"),
    (["transcribe", *HERE, "--out", "/proc/below"], "give a folder that is writable"),
    (["transcribe", *HERE, "--out", LONG], "File name too long"),
    (["transcribe", *HERE, "--wrong"], "unrecognized arguments: --wrong (qwen3-asr transcribe"),
    *((["live", CLIP, "--url", url], "--url: ") for url in URLS),
    *((["live", CLIP, "--url", "http://h", "--speed", n], "--speed") for n in NUMBERS),
    (["live", CLIP], "the following arguments are required: --url"),
    (["live", "absent.wav", "--url", "http://h"], "absent.wav: No such file or directory"),
    (["live", CLIP, "--url", "http://h", "--device", "alsa:x"], "give it or a file"),
    (["live", "--url", "http://h", "--device", "alsa"], "must be FORMAT:NAME"),
    (["live", CLIP, "--url", "http://h", "--language", "Elvish"], "unknown language"),
    *((["verify", "--checkpoint", "tiny", "--seconds", n], "--seconds") for n in NUMBERS),
    (["verify"], "no checkpoint given"),
    (["verify", "absent.wav", "--checkpoint", "tiny"], "absent.wav: No such file"),
    (["verify", "-", "--checkpoint", "tiny"], "standard input: give a file"),
    (["verify", "--checkpoint", "tiny", "--device", "tpu"], "--device: invalid choice: 'tpu'"),
    (["verify", "--checkpoint", "Some/Model"], "hf download Some/Model --local-dir FOLDER"),
    *((["bench", "--checkpoint", "tiny", "--rounds", n], "--rounds") for n in NUMBERS),
    *((["bench", "--checkpoint", "tiny", "--seconds", n], "--seconds") for n in NUMBERS[1:]),
    *((["bench", "--checkpoint", "tiny", "--concurrency", n], "--concurrency") for n in NUMBERS),
    (["bench", "--checkpoint", "tiny", "--standard", "fast"], "--standard fast: must be of"),
    (["bench", "--checkpoint", "tiny", "--out", "absent/x.json"], "there is no folder absent"),
    (["bench", "--checkpoint", "tiny", "--out", "{empty}"], "is a folder; give a file"),
    (["bench", "--checkpoint", "absent"], "model_dir absent: no such folder"),
    (["settings", "--check", "absent.json"], "absent.json"),
    (["settings", "--check", "{a}/elvish.json"], "language: unknown language 'Elvish'"),
    (["settings", "--check", "{empty}"], "Is a directory"),
    (["settings", "--check", CLIP], "utf-8"),
    (["settings", "--check"], "--check: expected one argument"),
    (["settings", "more"], "unrecognized arguments: more"),
]  # fmt: skip


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    """Folders that the mistakes are about."""
    for name in ("empty", "a", "b"):
        (tmp_path / name).mkdir()
        if name != "empty":
            (tmp_path / name / "same.wav").write_bytes(b"RIFF")
    (tmp_path / "a" / "elvish.json").write_text('{"language": "Elvish"}')
    return {f"{{{path.name}}}": str(path) for path in tmp_path.iterdir()}


def placed(arguments: list[str], places: dict[str, str]) -> list[str]:
    """With the folders of this test."""
    found = []
    for argument in arguments:
        for name, path in places.items():
            argument = argument.replace(name, path)
        found.append(argument)
    return found


@pytest.mark.parametrize(("arguments", "said"), MISTAKES)
def test_a_mistake_is_one_line_and_2(
    arguments: list[str],
    said: str,
    places: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("QWEN3_ASR_MODEL_DIR", raising=False)
    assert run(placed(arguments, places)) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    [line] = shown.err.splitlines()
    assert line.startswith("qwen3-asr: ")
    assert said in line


def test_all_of_them_are_found_before_anything_heavy_is_imported(places: dict[str, str]) -> None:
    calls = [placed(arguments, places) for arguments, _ in MISTAKES]
    script = (
        "import json, sys\nfrom predictor.cli.main import run\n"
        "codes = {run(call) for call in json.load(sys.stdin)}\n"
        "print(json.dumps([sorted(codes), sorted(sys.modules)]))"
    )
    command = [sys.executable, "-c", script]
    given = json.dumps(calls)
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=True)
    codes, modules = json.loads(done.stdout)
    assert codes == [2]
    assert not {"torch", "kserve", "fastapi", "transformers", "av", "uvicorn"} & set(modules)


def test_a_key_that_no_header_can_carry(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ASR_API_KEY", "钥匙")
    for command in (["transcribe", "--demo"], ["live", CLIP]):
        assert run([*command, "--url", "http://127.0.0.1:9"]) == 2
        assert "ASR_API_KEY: a key is printable ASCII" in capsys.readouterr().err


def test_no_time_limit_of_a_server_ends_a_long_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's ten minutes for a request are a proxy's affair; here nobody else waits."""
    made: list[Settings] = []

    def recognizer(settings: Settings, **_: object) -> object:
        made.append(settings)
        raise KeyboardInterrupt

    monkeypatch.setattr("predictor.cli.local.LocalRecognizer", recognizer)
    assert run(["transcribe", *HERE]) == 130
    [settings] = made
    assert settings.request_timeout_s == settings.max_audio_s == 86_400
