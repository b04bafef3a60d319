"""Manifests: what is written is read back, and what is wrong is named with line and key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.lib.errors import ManifestError
from pipelines.lib.manifest import Clip, digest, read_manifest, resolve_audio, write_manifest


def write(path: Path, *lines: object) -> Path:
    path.write_text(
        "".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines), "utf-8"
    )
    return path


def test_reads_keys_tags_and_relative_paths(tmp_path: Path) -> None:
    path = write(
        tmp_path / "m.jsonl",
        {
            "audio": "clips/1.flac",
            "text": "hello",
            "language": "en-US",
            "duration_s": 2,
            "speaker": "anna",
            "noise": "street",
            "snr_db": 10,
            "kinds": ["far", "noisy"],
        },
        "",
        {"audio": "https://host/2.wav", "text": "", "language": "None"},
        {"audio": "4.wav", "text": None},
        {"audio": "file:///data/a%20b.wav", "text": "你好 hello", "language": "en+zh"},
    )
    first, second, unknown, third = read_manifest(path)
    assert (unknown.text, unknown.language) == (None, None)
    assert first == Clip(
        id="clips/1.flac",
        audio=str(tmp_path / "clips/1.flac"),
        text="hello",
        language="English",
        duration_s=2.0,
        speaker="anna",
        tags={"noise": ("street",), "snr_db": ("10",), "kinds": ("far", "noisy")},
    )
    assert (second.audio, second.text, second.language) == ("https://host/2.wav", "", None)
    assert (third.audio, third.language) == ("/data/a b.wav", "Chinese+English")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "m.jsonl:2: not JSON"),
        ("[1]", "m.jsonl:2: expected an object"),
        ({"text": "x"}, "m.jsonl:2: audio: is missing"),
        ({"audio": "b.wav"}, "m.jsonl:2: text: is missing"),
        ({"audio": "", "text": "x"}, "m.jsonl:2: audio: must not be empty"),
        ({"audio": "b.wav", "text": 3}, "m.jsonl:2: text: expected a string, found 3"),
        ({"audio": "b.wav", "text": "x", "language": "xx"}, "m.jsonl:2: language: .*'xx'"),
        ({"audio": "b.wav", "text": "x", "duration_s": -1}, "m.jsonl:2: duration_s: .*-1"),
        ({"audio": "b.wav", "text": "x", "duration_s": True}, "m.jsonl:2: duration_s: .*True"),
        ({"audio": "b.wav", "text": "x", "room": {"a": 1}}, "m.jsonl:2: room: a tag"),
        ({"audio": "a.wav", "text": "x"}, "m.jsonl:2: id 'a.wav' is already used on line 1"),
    ],
)
def test_errors_name_line_and_key(tmp_path: Path, line: object, problem: str) -> None:
    path = write(tmp_path / "m.jsonl", {"audio": "a.wav", "text": "x"}, line)
    with pytest.raises(ManifestError, match=problem):
        read_manifest(path)


def test_empty_and_missing_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="holds no recordings"):
        read_manifest(write(tmp_path / "empty.jsonl"))
    with pytest.raises(ManifestError, match="cannot be read"):
        read_manifest(tmp_path / "missing.jsonl")


texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.builds(
            Clip,
            id=texts.filter(bool),
            audio=st.just("/data/clip.wav"),
            text=st.none() | texts,
            language=st.sampled_from([None, "English", "Chinese+English"]),
            duration_s=st.none() | st.floats(0, 1e6),
            speaker=st.none() | texts.filter(bool),
            context=texts,
            tags=st.dictionaries(
                st.sampled_from(["noise", "room"]), st.tuples(texts) | st.tuples(texts, texts)
            ),
        ),
        min_size=1,
        max_size=5,
        unique_by=lambda clip: clip.id,
    )
)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, clips: list[Clip]
) -> None:
    path = tmp_path_factory.mktemp("manifest") / "m.jsonl"
    write_manifest(path, clips)
    assert read_manifest(path) == clips


def test_paths_below_the_manifest_are_written_relative(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.jsonl", [Clip("1", str(tmp_path / "a/1.wav"), "x")])
    assert json.loads((tmp_path / "m.jsonl").read_text())["audio"] == "a/1.wav"
    assert resolve_audio("a/1.wav", tmp_path, "m.jsonl:1") == str(tmp_path / "a/1.wav")


def test_digest_follows_the_question_not_the_place() -> None:
    here, there = Clip("1", "/here/1.wav", "x"), Clip("1", "/there/1.wav", "x")
    assert digest([here]) == digest([there])
    assert digest([here]) != digest([Clip("1", "/here/1.wav", "y")])
