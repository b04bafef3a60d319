"""Other toolkits' layouts, unique ids, and what is wrong in data sets named in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.lib.errors import ManifestError
from pipelines.lib.manifest import Clip, parse_clip_language, read_manifest
from pipelines.lib.readers import read_dataset
from pipelines.lib.spoken import with_languages
from tests.pipelines.test_readers import put


def arrow(path: Path, table: Any) -> None:
    import pyarrow as pa

    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


def test_ids_are_unique_over_configurations_and_splits(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    for config in ("en", "zh"):
        for split in ("test", "train"):
            rows = [{"bytes": f"{config}{split}{i}".encode(), "path": "a.wav"} for i in range(3)]
            table = pa.table({"audio": rows, "text": [f"{config} {split} {i}" for i in range(3)]})
            arrow(tmp_path / config / split / "data-00000-of-00001.arrow", table)
    clips = read_dataset(tmp_path)
    assert len({clip.id for clip in clips}) == len(clips) == 12
    for clip in clips:  # no transcript is crossed
        assert Path(clip.audio).read_bytes().decode() == (clip.text or "").replace(" ", "")


def test_duplicates_are_refused_in_every_reader(tmp_path: Path) -> None:
    put(tmp_path / "a.wav")
    put(tmp_path / "t.csv", "id,path,text\nx,a.wav,hi\nx,a.wav,ho\n")
    with pytest.raises(ManifestError, match="id 'x' is there twice"):
        read_dataset(tmp_path / "t.csv")
    line = json.dumps({"audio_filepath": "a.wav", "text": "hi", "duration": 1.0})
    put(tmp_path / "n.json", f"{line}\n{line}\n")
    with pytest.raises(ManifestError, match=r"id 'a\.wav' is there twice"):
        read_dataset(tmp_path / "n.json")


def test_audio_folder_with_splits(tmp_path: Path) -> None:
    for split in ("train", "test"):
        put(tmp_path / split / "x.wav")
        put(tmp_path / split / "metadata.csv", f"file_name,text,room\nx.wav,{split} it is,hall\n")
    assert {clip.text for clip in read_dataset(tmp_path)} == {"train it is", "test it is"}
    (clip,) = read_dataset(tmp_path, split="test")
    assert (clip.text, clip.tags) == ("test it is", {"room": ("hall",)})


def test_columns_are_tags_and_duration_is_read(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    table = pa.table({
        "audio": [{"bytes": b"1", "path": "a.wav"}, {"bytes": b"2", "path": "b.wav"}],
        "text": ["hi", None], "duration": [1.5, None], "noise": ["street", None], "take": [1, 2],
    })  # fmt: skip
    arrow(tmp_path / "data-00000-of-00001.arrow", table)
    first, second = read_dataset(tmp_path, language="en")
    assert (first.duration_s, first.tags) == (1.5, {"noise": ("street",), "take": ("1",)})
    assert (second.text, second.duration_s, second.tags) == (None, None, {"take": ("2",)})


def test_a_damaged_table_is_one_clear_line(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pa.table({"text": ["hi"] * 50, "audio": [{"bytes": b"x" * 99, "path": "a"}] * 50})
    arrow(tmp_path / "a/data-00000-of-00001.arrow", table)
    file = tmp_path / "a/data-00000-of-00001.arrow"
    file.write_bytes(file.read_bytes()[:200])
    (tmp_path / "p").mkdir()
    parquet.write_table(table, tmp_path / "p/test.parquet")
    (tmp_path / "p/test.parquet").write_bytes(b"PAR1 no")
    for folder in ("a", "p"):
        with pytest.raises(ManifestError, match="is damaged after row 0: ") as caught:
            read_dataset(tmp_path / folder)
        assert "\n" not in str(caught.value)


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    put(tmp_path / "x.wav")
    put(tmp_path / "metadata.csv", "\ufefffile_name,text\nx.wav,hi\n")
    (clip,) = read_dataset(tmp_path)
    assert clip.text == "hi"
    put(tmp_path / "k/a.wav")
    put(tmp_path / "k/wav.scp", "\ufeffu1 a.wav\n")
    put(tmp_path / "k/text", "\ufeffu1 hi\n")
    assert read_dataset(tmp_path / "k")[0].id == "u1"


def test_nemo(tmp_path: Path) -> None:
    put(tmp_path / "a.wav")
    entry = {"audio_filepath": "a.wav", "text": "hi", "duration": 2.5, "lang": "en", "offset": 0,
             "pred_text": "ho", "corpus": "x"}  # fmt: skip
    put(tmp_path / "m.json", json.dumps(entry) + "\n")
    (clip,) = read_dataset(tmp_path / "m.json")
    assert (clip.text, clip.language, clip.duration_s) == ("hi", "English", 2.5)
    assert (clip.audio, clip.tags) == (str((tmp_path / "a.wav").resolve()), {"corpus": ("x",)})
    put(tmp_path / "m.json", json.dumps({**entry, "offset": 3.5}) + "\n")
    with pytest.raises(ManifestError, match=r"m\.json:1: offset: 3\.5 s into a longer recording"):
        read_dataset(tmp_path / "m.json")


def test_kaldi(tmp_path: Path) -> None:
    put(tmp_path / "a.wav")
    put(tmp_path / "wav.scp", "u1 a.wav\n")
    put(tmp_path / "text", "u1 hello there\n")
    put(tmp_path / "utt2spk", "u1 anna\n")
    put(tmp_path / "utt2lang", "u1 yue\n")
    put(tmp_path / "utt2dur", "u1 3.5\n")
    (clip,) = read_dataset(tmp_path)
    assert (clip.id, clip.text, clip.speaker) == ("u1", "hello there", "anna")
    assert (clip.language, clip.duration_s) == ("Cantonese", 3.5)
    put(tmp_path / "wav.scp", "u1 sph2pipe a.sph |\n")
    with pytest.raises(ManifestError, match=r"wav\.scp:1: u1 is a command"):
        read_dataset(tmp_path)
    put(tmp_path / "segments", "u1 r 0 1\n")
    with pytest.raises(ManifestError, match="extract the segments first"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(("suffix", "between"), [("csv", ","), ("tsv", "\t")])
def test_tables(tmp_path: Path, suffix: str, between: str) -> None:
    put(tmp_path / "a.wav")
    lines = [
        ["path", "sentence", "locale", "client_id", "age"],
        ["a.wav", "hi", "zh-HK", "c", "20s"],
    ]
    put(tmp_path / f"t.{suffix}", "\n".join(between.join(line) for line in lines) + "\n")
    (clip,) = read_dataset(tmp_path / f"t.{suffix}")
    assert (clip.id, clip.text, clip.language, clip.speaker) == ("t/2", "hi", "Cantonese", "c")
    assert clip.tags == {"age": ("20s",)}
    put(tmp_path / f"t.{suffix}", f"path{between}text\na.wav{between}hi{between}more\n")
    with pytest.raises(ManifestError, match=rf"t\.{suffix}:2: has another number of columns"):
        read_dataset(tmp_path / f"t.{suffix}")


@pytest.mark.parametrize(
    ("tag", "language"),
    [
        ("yue", "Cantonese"), ("zh-HK", "Cantonese"), ("zh_hk", "Cantonese"),
        ("yue_hant_hk", "Cantonese"), ("zh-yue", "Cantonese"), ("zh-CN", "Chinese"),
        ("cmn_hans_cn", "Chinese"), ("en_us", "English"), ("pt-BR", "Portuguese"),
        ("zh+en", "Chinese+English"),
    ],
)  # fmt: skip
def test_tags_of_languages(tag: str, language: str) -> None:
    assert parse_clip_language(tag) == language


def test_manifests_take_language_duration_and_null_tags(tmp_path: Path) -> None:
    entries = [
        {"audio": "a.wav", "text": "hi", "duration": 2, "noise": None, "alternatives": ["hey"]},
        {"audio": "b.wav", "text": "hallo", "language": "de"},
        {"audio": "c.wav", "text": ""},
    ]
    put(tmp_path / "m.jsonl", "\n".join(map(json.dumps, entries)))
    first, second, silent = read_dataset(tmp_path / "m.jsonl", language="en")
    assert (first.language, first.duration_s, first.tags) == ("English", 2.0, {})
    assert first.alternatives == ("hey",)
    assert (second.language, silent.language) == ("German", None)
    put(tmp_path / "m.jsonl", json.dumps({**entries[0], "alternatives": "hey"}))
    with pytest.raises(ManifestError, match=r"m\.jsonl:1: alternatives: expected a list"):
        read_manifest(tmp_path / "m.jsonl")


def test_languages_are_found_and_said_where_from() -> None:
    pytest.importorskip("lingua")
    clips = [
        Clip("1", "/set/x.wav", "hi", tags={"locale": ("de-DE",)}),
        Clip("2", "/set/fr_fr/x.wav", "salut"),
        Clip("3", "/set/x.wav", "今天天气很好"),
        Clip("4", "/set/x.wav", "der schnelle braune Fuchs springt über den faulen Hund"),
        Clip("5", "/set/x.wav", "xyzzy"),
        Clip("6", "/set/x.wav", ""),
        Clip("7", "/set/x.wav", "yes", "English"),
    ]
    found, said = with_languages(clips)
    assert [clip.language for clip in found] == [
        "German", "French", "Chinese", "German", None, None, "English"
    ]  # fmt: skip
    for source in ("the tag locale", "the folder's name", "the script", "the words", "1 unknown"):
        assert source in said
    assert with_languages(clips[6:]) == (clips[6:], "")
    assert "from --language" in with_languages(clips[4:5], "Dutch")[1]


def test_damaged_arrow_offsets_are_named(tmp_path: Path) -> None:
    """pyarrow takes offsets as they are: reading beyond the file would end the process."""
    pa = pytest.importorskip("pyarrow")
    put(tmp_path / "a.wav")
    path = tmp_path / "data-00000-of-00001.arrow"
    arrow(path, pa.table({"file_name": ["a.wav"], "text": ["one two"]}))
    whole = path.read_bytes()
    offsets = (0).to_bytes(4, "little") + (7).to_bytes(4, "little")
    before, found, after = whole.rpartition(offsets)
    assert found
    path.write_bytes(before + offsets[:4] + (2**31 - 1).to_bytes(4, "little") + after)
    with pytest.raises(ManifestError, match="is damaged after row 0"):
        read_dataset(tmp_path)
