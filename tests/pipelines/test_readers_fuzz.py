"""Data sets that are damaged in any way: the right recordings, or one line that says what is wrong.

Whole data sets in the published layouts, with bytes cut out, doubled and put in by hypothesis.
"""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.lib.errors import PipelineError
from pipelines.lib.manifest import asked_digest, digest, read_manifest, write_manifest
from pipelines.lib.readers import read_dataset
from pipelines.lib.spoken import with_languages

Files = dict[str, bytes]
NASTY = [
    b"", b"\xef\xbb\xbf", b"\x00", b"\xff\xfe", b"\r", b"\r\n", b"\n", b"\t", b"\t\t", b" ", b",",
    b'"', b"'", b"{", b"}", b"[" * 40_000, b"null", b"NaN", b"-1", b"1e999", b"9" * 5000, b"true",
    b'{"audio": "a.wav", "text": null}', b"[]", b"3", b"http://[", b"file://%00", b"s3://",
    b"\\ud800", b"\\u2028", "\u2028".encode(), b"../" * 200, b"x" * 5000, b"|", b"-", b"--", b"/",
    b'"a.wav"', b'"text"', b"a.wav", b"xx_yy", b"english", "٣".encode(),
]  # fmt: skip


def manifest() -> Files:
    rows = [
        {"audio": "a.wav", "text": "one", "language": "en", "speaker": "s", "noise": "street"},
        {"audio": "b.wav", "text": "", "duration_s": 1.5, "tags": [1, "x"], "alternatives": ["o"]},
    ]
    return {"manifest.jsonl": "\n".join(map(json.dumps, rows)).encode(), **audio()}


def nemo() -> Files:
    row = {"audio_filepath": "a.wav", "text": "one", "duration": 1.0, "lang": "de", "x": None}
    other = {**row, "audio_filepath": "b.wav"}
    return {"manifest.json": f"{json.dumps(row)}\n{json.dumps(other)}\n".encode(), **audio()}


def table() -> Files:
    return {"t.csv": b'id,path,text,room\n1,a.wav,"one, two",hall\n2,b.wav,,\n', **audio()}


def tsv() -> Files:
    return {"t.tsv": b"path\tsentence\tduration\na.wav\tone\t1.5\nb.wav\ttwo\t\n", **audio()}


def kaldi() -> Files:
    return {
        "wav.scp": b"u1 a.wav\nu2 b.wav\n", "text": b"u1 one two\nu2 three\n",
        "utt2spk": b"u1 s1\nu2 s2\n", "utt2dur": b"u1 1.5\nu2 2\n", "utt2lang": b"u1 en\n",
        **audio(),
    }  # fmt: skip


def librispeech() -> Files:
    folder = "test/1/2/"
    lines = b"1-2-0000 ONE TWO\n1-2-0001 THREE\n"
    flacs = {f"{folder}1-2-000{i}.flac": b"" for i in (0, 1)}
    return {f"{folder}1-2.trans.txt": lines, **flacs}


def fleurs() -> Files:
    row = b"1\ta.wav\tOne.\tone\to n e\t16000\tFEMALE\n"
    return {"test.tsv": row, "audio/test/a.wav": b""}


def common_voice() -> Files:
    text = b"client_id\tpath\tsentence\tlocale\nc\ta.mp3\tone\ten\n"
    return {"test.tsv": text, "clips/a.mp3": b""}


def aishell() -> Files:
    return {"transcript/aishell_transcript_v0.8.txt": "X1 一 二\n".encode(),
            "wav/test/S1/X1.wav": b""}  # fmt: skip


def audio_folder() -> Files:
    rows = [{"file_name": "a.wav", "text": "one"}, {"file_name": "b.wav", "text": None}]
    return {"metadata.jsonl": "\n".join(map(json.dumps, rows)).encode(), **audio()}


def parquet() -> Files:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    sounds = [{"bytes": b"RIFF", "path": "a.wav"}, {"bytes": b"RIFX", "path": None}]
    file = io.BytesIO()
    pq.write_table(pa.table({"audio": sounds, "text": ["one", None]}), file)
    return {"data/test-0.parquet": file.getvalue()}


def arrow() -> Files:
    pa = pytest.importorskip("pyarrow")
    rows = pa.table({"audio": [{"bytes": b"RIFF", "path": "a.wav"}], "text": ["one"]})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return {"data-00000-of-00001.arrow": sink.getvalue()}


def audio() -> Files:
    return {"a.wav": b"", "b.wav": b""}


LAYOUTS: list[Callable[[], Files]] = [
    manifest, nemo, table, tsv, kaldi, librispeech, fleurs, common_voice, aishell, audio_folder,
    parquet, arrow,
]  # fmt: skip
ONE_FILE = (nemo, table, tsv)
CHANGES = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.integers(0, 12),
        st.one_of(st.sampled_from(NASTY), st.binary(max_size=8)),
    ),
    min_size=1,
    max_size=3,
)


def damaged(files: Files, name: str, changes: list[tuple[float, int, bytes]]) -> Files:
    data = files[name]
    for place, cut, put_in in changes:
        at = int(place * len(data))
        data = data[:at] + put_in + data[at + cut :]
    return {**files, name: data}


def read(layout: Callable[[], Files], files: Files, folder: Path) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    path = folder / next(iter(files)) if layout in ONE_FILE else folder
    try:
        clips, _ = with_languages(read_dataset(path))
    except PipelineError as error:
        complaint = str(error)
    else:
        complaint = ""
    if complaint:
        assert "\n" not in complaint
        assert str(path) in complaint or "language" in complaint, complaint
        return
    assert len({clip.id for clip in clips}) == len(clips) > 0
    assert digest(clips)
    assert asked_digest(clips)
    write_manifest(folder / "out" / "m.jsonl", clips)
    again = read_manifest(folder / "out" / "m.jsonl")
    assert again == clips, [pair for pair in zip(again, clips, strict=True) if pair[0] != pair[1]]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_what_is_whole_is_read(layout: Callable[[], Files], tmp_path: Path) -> None:
    files = layout()
    folder = tmp_path / "en_us"  # Fleurs' language is its folder's name
    read(layout, files, folder)
    assert read_dataset(folder / next(iter(files)) if layout in ONE_FILE else folder)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_what_is_damaged_is_read_or_named(layout: Callable[[], Files], data: st.DataObject) -> None:
    whole = layout()
    texts = [name for name, content in whole.items() if content]
    files = damaged(whole, data.draw(st.sampled_from(texts)), data.draw(CHANGES))
    folder = Path(tempfile.mkdtemp())
    try:
        read(layout, files, folder / "en_us")
    finally:
        shutil.rmtree(folder)
