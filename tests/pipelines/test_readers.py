"""Published layouts, laid out small on disk."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipelines.lib import storage
from pipelines.lib.errors import ManifestError, OptionError
from pipelines.lib.readers import read_dataset
from pipelines.lib.storage import read_audio


def put(path: Path, text: str | bytes = b"sound") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_librispeech(tmp_path: Path) -> None:
    folder = tmp_path / "test-clean/61/70968"
    put(folder / "61-70968.trans.txt", "61-70968-0000 HE BEGAN\n61-70968-0001 TO SPEAK\n")
    put(folder / "61-70968-0000.flac")
    put(folder / "61-70968-0001.flac")
    first, second = read_dataset(tmp_path, split="test-clean")
    assert (first.id, first.text, first.language) == ("61-70968-0000", "HE BEGAN", "English")
    assert second.speaker == "61"
    assert second.audio == str(folder / "61-70968-0001.flac")


def test_librispeech_names_the_line_of_a_missing_recording(tmp_path: Path) -> None:
    put(tmp_path / "61/7/61-7.trans.txt", "61-7-0000 A\n")
    with pytest.raises(ManifestError, match=r"trans.txt:1: audio .*61-7-0000.flac does not exist"):
        read_dataset(tmp_path)


def test_aishell_takes_the_split_and_joins_words(tmp_path: Path) -> None:
    put(
        tmp_path / "transcript/aishell_transcript_v0.8.txt",
        "BAC009S0002W0122 而 对 楼市\nBAC009S0764W0121 甚至 出现\n",
    )
    put(tmp_path / "wav/train/S0002/BAC009S0002W0122.wav")
    put(tmp_path / "wav/test/S0764/BAC009S0764W0121.wav")
    (clip,) = read_dataset(tmp_path, split="test")
    assert (clip.text, clip.language, clip.speaker) == ("甚至出现", "Chinese", "S0764")
    assert len(read_dataset(tmp_path)) == 2


def test_fleurs(tmp_path: Path) -> None:
    root = tmp_path / "cmn_hans_cn"
    row = ["1", "10.wav", "原文。", "原文", "原 文", "32000", "FEMALE"]
    put(root / "test.tsv", "\t".join(row) + "\n")
    put(root / "audio/test/10.wav")
    (clip,) = read_dataset(root)
    assert (clip.text, clip.language, clip.duration_s) == ("原文。", "Chinese", 2.0)
    assert clip.tags == {"gender": ("female",)}


def test_fleurs_names_a_row_of_wrong_width(tmp_path: Path) -> None:
    put(tmp_path / "en_us/dev.tsv", "1\t2.wav\n")
    put(tmp_path / "en_us/audio/dev/2.wav")
    with pytest.raises(ManifestError, match=r"dev.tsv:1: expected 7 columns, found 2"):
        read_dataset(tmp_path / "en_us")


def test_common_voice(tmp_path: Path) -> None:
    table = 'client_id\tpath\tsentence\tage\tlocale\nab12\tx.mp3\tSay "this"\ttwenties\tsv-SE\n'
    put(tmp_path / "test.tsv", table)
    put(tmp_path / "clips/x.mp3")
    (clip,) = read_dataset(tmp_path)
    assert (clip.text, clip.language, clip.speaker) == ('Say "this"', "Swedish", "ab12")
    assert clip.tags == {"age": ("twenties",)}


def test_common_voice_of_an_unknown_locale_asks_for_the_language(tmp_path: Path) -> None:
    put(tmp_path / "test.tsv", "client_id\tpath\tsentence\tlocale\na\tx.mp3\tHei\tcy\n")
    put(tmp_path / "clips/x.mp3")
    with pytest.raises(ManifestError, match=r"test.tsv:2: locale: .*'cy'"):
        read_dataset(tmp_path)
    assert read_dataset(tmp_path, language="en")[0].language == "English"


def test_audio_folder_with_jsonl_and_csv(tmp_path: Path) -> None:
    put(tmp_path / "a/x.wav")
    put(tmp_path / "a/metadata.jsonl", json.dumps({"file_name": "x.wav", "text": "hi"}) + "\n")
    put(tmp_path / "b/x.wav")
    put(tmp_path / "b/metadata.csv", 'file_name,transcription,language\nx.wav,"hi, you",en\n')
    (clip,) = read_dataset(tmp_path / "a", language="German")
    assert (clip.text, clip.language) == ("hi", "German")
    (clip,) = read_dataset(tmp_path / "b")
    assert (clip.text, clip.language) == ("hi, you", "English")


def test_audio_folder_names_the_row_of_what_is_missing(tmp_path: Path) -> None:
    put(tmp_path / "metadata.csv", "file_name,label\nx.wav,3\n")
    with pytest.raises(ManifestError, match=r"metadata.csv:2: none of the columns text"):
        read_dataset(tmp_path)


def test_parquet_and_arrow_with_embedded_recordings(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="reading Arrow needs pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pa.table(
        {"audio": [{"bytes": b"RIFF1", "path": "a.wav"}], "sentence": ["hi"], "speaker_id": [7]}
    )
    (tmp_path / "p").mkdir()
    parquet.write_table(table, tmp_path / "p/test-00000-of-00001.parquet")
    (tmp_path / "s").mkdir()
    arrow = str(tmp_path / "s/data-00000-of-00001.arrow")
    with pa.OSFile(arrow, "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    for folder in ("p", "s"):
        (clip,) = read_dataset(tmp_path / folder, language="en")
        assert (clip.text, clip.speaker) == ("hi", "7")
        assert Path(clip.audio).read_bytes() == b"RIFF1"


def test_unknown_folder_and_layout(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no known layout"):
        read_dataset(tmp_path)
    with pytest.raises(OptionError, match="layout: 'wenet' is not one of manifest, librispeech"):
        read_dataset(tmp_path, layout="wenet")


@pytest.fixture
def http_url() -> object:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/a.wav"
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(b"sound" if found else b"")

        def log_message(self, *_args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_remote_audio_only_when_allowed(http_url: str) -> None:
    with pytest.raises(ManifestError, match="remote audio was not allowed"):
        read_audio(f"{http_url}/a.wav")
    assert read_audio(f"{http_url}/a.wav", allow_remote=True) == b"sound"
    with pytest.raises(ManifestError, match=r"download failed: .*404"):
        read_audio(f"{http_url}/b.wav", allow_remote=True)


def test_object_stores_ask_for_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ManifestError, match="scheme 'ftp' is not one of http, https, s3, gs"):
        read_audio("ftp://host/a.wav", allow_remote=True)
    fsspec = pytest.importorskip("fsspec")
    with fsspec.open("memory://bucket/a.wav", "wb") as file:
        file.write(b"sound")
    # fsspec's own in-memory store stands where s3fs would: the same call, another scheme
    monkeypatch.setitem(storage.FSSPEC_PACKAGES, "memory", "fsspec")
    assert read_audio("memory://bucket/a.wav", allow_remote=True) == b"sound"
    try:
        import s3fs  # noqa: F401
    except ImportError:
        with pytest.raises(ManifestError, match="s3:// needs the package s3fs"):
            read_audio("s3://bucket/a.wav", allow_remote=True)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"audio .*nothing.wav: cannot be read: No such file"):
        read_audio(str(tmp_path / "nothing.wav"))
