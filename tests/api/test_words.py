"""Words with their times, as clients of every protocol get them, and times of a known text."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import numpy as np
import openai
import pytest
import soundfile
import srt
import webvtt
from kserve import InferenceGRPCClient, InferInput, InferRequest

MODEL = "qwen3-asr"
PREDICTOR = Path(__file__).parents[2] / "predictor"
ALIGNER = PREDICTOR / "checkpoints" / "tiny-aligner"
DATA = Path(__file__).parents[1] / "data" / "eval"
ENGLISH, CHINESE = "en-short-013.opus", "zh-short-024.opus"


@pytest.fixture(scope="module")
def server(start_server: Any) -> Any:
    """One with an aligner."""
    return start_server(f"--aligner_dir={ALIGNER}")


@pytest.fixture
def client(server: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def rows(name: str) -> dict[str, dict[str, Any]]:
    found = (json.loads(line) for line in (DATA / name).read_text("utf-8").splitlines())
    return {row["audio"]: row for row in found}


def said(name: str) -> str:
    return str(rows("manifest.jsonl")[name]["text"])


def true_starts(name: str) -> list[float]:
    """When the synthesizer says that each word began."""
    return [word["start_s"] for word in rows("words.jsonl")[name]["words"]]


@pytest.mark.parametrize("name", [ENGLISH, CHINESE])
def test_openais_client_sees_words(client: openai.OpenAI, name: str) -> None:
    result = client.audio.transcriptions.create(
        model=MODEL,
        file=(name, (DATA / name).read_bytes()),
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    assert result.words is not None
    assert result.segments is not None
    joiner = " " if name == ENGLISH else ""
    text = joiner.join(word.word for word in result.words)
    assert text.casefold() in result.text.casefold().replace(",", "").replace("，", "")
    for before, after in zip(result.words, result.words[1:], strict=False):
        assert before.start <= before.end <= after.start
    assert result.words[0].start >= 0
    assert result.words[-1].end <= result.duration
    if result.text.rstrip(".。?？") == said(name).rstrip(".。?？"):
        starts = [word.start for word in result.words]
        assert np.median(np.abs(np.subtract(starts, true_starts(name)))) < 0.06
    for word in result.words:
        assert 0 < word.confidence <= 1  # type: ignore[attr-defined]


def test_words_alone_and_segments_alone(client: openai.OpenAI, speech: bytes) -> None:
    asked: dict[str, Any] = {"model": MODEL, "response_format": "verbose_json"}
    create = client.audio.transcriptions.create
    words = create(file=("a", speech), timestamp_granularities=["word"], **asked)
    segments = create(file=("a", speech), timestamp_granularities=["segment"], **asked)
    assert words.words
    assert words.segments is None
    assert segments.words is None
    assert segments.segments


def test_the_name_without_brackets(server: Any, speech: bytes) -> None:
    answer = httpx.post(
        server.url + "/v1/audio/transcriptions",
        files={"file": speech},
        data={
            "model": MODEL,
            "response_format": "verbose_json",
            "timestamp_granularities": ["word", "segment"],
        },
        timeout=60,
    ).json()
    assert answer["words"]
    assert answer["segments"]


def test_all_protocols_say_the_same_words(server: Any, speech: bytes) -> None:
    plain = httpx.post(
        server.url + "/api/v1/recognize",
        files={"audio": speech},
        data={"words": "true"},
        timeout=60,
    ).json()
    words = plain["words"]
    assert words
    b64 = base64.b64encode(speech).decode()
    v1 = httpx.post(
        server.url + f"/v1/models/{MODEL}:predict",
        json={"instances": [{"audio": {"b64": b64}, "words": True}, {"audio": {"b64": b64}}]},
        timeout=60,
    ).json()["predictions"]
    for word, same in zip(v1[0]["words"], words, strict=True):  # beside another in its batch
        assert word == {**same, "confidence": pytest.approx(same["confidence"], abs=1e-4)}
    assert "words" not in v1[1]
    raw = httpx.post(
        server.url + f"/v1/models/{MODEL}:predict?words=true",
        content=speech,
        headers={"content-type": "audio/flac"},
        timeout=60,
    ).json()["predictions"]
    assert raw[0]["words"] == words
    tensor = {"name": "audio", "datatype": "BYTES", "shape": [1], "data": [b64]}
    v2 = httpx.post(
        server.url + f"/v2/models/{MODEL}/infer",
        json={"inputs": [tensor], "parameters": {"words": True}},
        timeout=60,
    ).json()
    [details] = [o["data"][0] for o in v2["outputs"] if o["name"] == "details"]
    assert json.loads(details)["words"] == words


async def test_kserves_grpc_client_sees_words(server: Any, speech: bytes) -> None:
    audio = InferInput("audio", [1], "BYTES")
    audio.set_data_from_numpy(np.array([speech], dtype=np.object_), binary_data=True)
    client = InferenceGRPCClient(server.grpc)
    try:
        request = InferRequest(MODEL, [audio], parameters={"words": True})
        answer = await client.infer(request)
    finally:
        await client.close()
    [details] = [o.as_numpy()[0] for o in answer.outputs if o.name == "details"]
    assert json.loads(details)["words"]


def test_words_carry_times_in_the_recording(server: Any, wav: Any) -> None:
    """5 s of quiet before, and 6 s between two sentences."""
    clip, _ = soundfile.read(DATA / ENGLISH, dtype="float32")
    quiet = np.zeros(80_000, dtype=np.float32)
    whole = np.concatenate([quiet, clip, quiet, clip])
    answers = [
        httpx.post(
            server.url + "/api/v1/recognize",
            files={"audio": wav(samples)},
            data={"words": "true"},
            timeout=60,
        ).json()["words"]
        for samples in (clip, whole)
    ]
    alone, both = answers
    assert [word["word"] for word in both] == [word["word"] for word in (*alone, *alone)]
    shifts = [5.0] * len(alone) + [10.0 + len(clip) / 16_000] * len(alone)
    for word, shift, single in zip(both, shifts, (*alone, *alone), strict=True):
        assert word["start"] - shift == pytest.approx(single["start"], abs=0.13)


def test_silence_has_no_words(client: openai.OpenAI, wav: Any) -> None:
    result = client.audio.transcriptions.create(
        model=MODEL,
        file=("a.wav", wav(np.zeros(32_000, dtype=np.float32))),
        response_format="verbose_json",
        timestamp_granularities=["word"],
    )
    assert result.words == []


def test_a_language_without_word_times(client: openai.OpenAI, speech: bytes) -> None:
    asked: dict[str, Any] = {"model": MODEL, "response_format": "verbose_json", "language": "nl"}
    with pytest.raises(openai.BadRequestError, match="Dutch, only for Chinese, English") as caught:
        client.audio.transcriptions.create(
            file=("a", speech), timestamp_granularities=["word"], **asked
        )
    assert caught.value.param == "language"
    result = client.audio.transcriptions.create(
        file=("a", speech), timestamp_granularities=["segment"], **asked
    )
    assert result.segments is not None


@pytest.mark.parametrize("value", ["yes", "1"])
def test_another_value_is_refused(server: Any, speech: bytes, value: str) -> None:
    answer = httpx.post(
        server.url + "/api/v1/recognize", files={"audio": speech}, data={"words": value}
    )
    assert answer.status_code == 400
    assert answer.json()["field"] == "words"


def align(server: Any, name: str, text: str, **more: str) -> httpx.Response:
    return httpx.post(
        server.url + "/v1/audio/alignments",
        files={"file": (DATA / name).read_bytes()},
        data={"text": text, **more},
        timeout=60,
    )


@pytest.mark.parametrize("name", [ENGLISH, CHINESE, "en-long-001.opus", "zh-long-002.opus"])
def test_a_known_text_gets_its_times(server: Any, name: str) -> None:
    answer = align(server, name, said(name))
    assert answer.status_code == 200, answer.text
    words = answer.json()["words"]
    starts = [word["start"] for word in words]
    assert starts == sorted(starts)
    assert "confidence" not in words[0]
    true = true_starts(name)
    if len(starts) == len(true):
        assert np.median(np.abs(np.subtract(starts, true))) < 0.06
    document = httpx.get(server.url + "/openapi.json").json()
    route = document["paths"]["/v1/audio/alignments"]["post"]
    schema = route["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema.validate(answer.json(), schema)


@pytest.mark.parametrize("name", [f"en-short-0{n:02}.opus" for n in (0, 5, 11, 19)])
def test_another_text_is_refused_at_its_first_word(server: Any, name: str) -> None:
    other = "Nobody would ever believe such nonsense about purple elephants"
    answer = align(server, name, other)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == "text"
    assert "from word 1 on ('Nobody" in error["message"]


def test_a_text_that_goes_astray_is_refused_there(server: Any) -> None:
    words = said(ENGLISH).rstrip(".?!").split()
    answer = align(server, ENGLISH, " ".join([*words, "and purple elephants dance tonight"]))
    assert answer.status_code == 400
    assert f"from word {len(words) + 1} on ('and purple" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("text", "more", "param"),
    [
        ("", {}, "text"),
        ("...", {}, "text"),
        ("word " * 3000, {}, "text"),
        ("hello", {"channel": "separate"}, "channel"),
        ("hello", {"language": "nl"}, "language"),
    ],
)
def test_what_cannot_be_aligned(server: Any, text: str, more: dict[str, str], param: str) -> None:
    answer = align(server, ENGLISH, text, **more)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


def test_more_speech_than_the_aligner_hears(server: Any, wav: Any, talk: Any) -> None:
    answer = httpx.post(
        server.url + "/v1/audio/alignments",
        files={"file": wav(talk(45))},
        data={"text": "good morning"},
        timeout=120,
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "audio_too_long"


def test_pieces_longer_than_the_aligner_hears_stop_the_start(start_server: Any) -> None:
    with pytest.raises(RuntimeError, match="segment_s=60: the aligner hears 32 s at once"):
        start_server(f"--aligner_dir={ALIGNER}", "--segment_s=60")


def test_subtitles_begin_with_their_words(server: Any) -> None:
    url, name = f"{server.url}/v1/audio/transcriptions", "en-long-001.opus"
    files = {"file": (DATA / name).read_bytes()}
    asked = {"model": MODEL, "timestamp_granularities[]": "word", "response_format": "verbose_json"}
    answer = httpx.post(url, files=files, data=asked, timeout=120).json()
    starts = {round(word["start"], 3) for word in answer["words"]}
    limits = {"cue_max_columns": "30", "cue_max_lines": "1", "cue_max_s": "4"}
    for kind, parse in (("srt", _srt_cues), ("vtt", _vtt_cues)):
        body = {"model": MODEL, "response_format": kind}
        for more, columns, lines, most_s in (({}, 42, 2, 7.0), (limits, 30, 1, 4.0)):
            said = httpx.post(url, files=files, data={**body, **more}, timeout=120)
            cues = parse(said.text)
            assert {round(start, 3) for start, _, _ in cues} <= starts
            text = " ".join(" ".join(shown.split()) for _, _, shown in cues)
            assert text == answer["text"]
            for start, end, shown in cues:
                assert 0 < end - start <= most_s + 1e-6
                assert len(shown.split("\n")) <= lines
                assert max(map(len, shown.split("\n"))) <= columns


def _srt_cues(text: str) -> list[tuple[float, float, str]]:
    return [
        (cue.start.total_seconds(), cue.end.total_seconds(), cue.content)
        for cue in srt.parse(text, ignore_errors=False)
    ]


def _vtt_cues(text: str) -> list[tuple[float, float, str]]:
    def seconds(stamp: str) -> float:
        hours, minutes, rest = stamp.split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(rest)

    found = webvtt.from_buffer(io.StringIO(text))
    return [(seconds(cue.start), seconds(cue.end), cue.text) for cue in found]


def test_the_aligners_work_is_counted(server: Any, speech: bytes) -> None:
    name = "qwen3_asr_aligner_requests_total"
    before = server.metric(name, error="none")
    words = server.metric("qwen3_asr_aligner_words_total")
    body = {"model": MODEL, "response_format": "srt"}
    answer = httpx.post(
        f"{server.url}/v1/audio/transcriptions", files={"file": speech}, data=body, timeout=60
    )
    said = " ".join(cue for _, _, cue in _srt_cues(answer.text)).split()
    assert server.metric(name, error="none") == before + 1
    assert server.metric("qwen3_asr_aligner_words_total") == words + len(said)
    assert server.metric("qwen3_asr_aligner_seconds_count") > 0


def test_subtitles_do_without_words_where_there_are_none(server: Any, speech: bytes) -> None:
    body = {"model": MODEL, "response_format": "srt", "language": "ar"}
    answer = httpx.post(
        f"{server.url}/v1/audio/transcriptions", files={"file": speech}, data=body, timeout=60
    )
    assert answer.status_code == 200
    assert len(_srt_cues(answer.text)) >= 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("cue_max_s", "61"), ("cue_min_s", "8"), ("cue_max_lines", "1.5"), ("cue_max_columns", "x")],
)
def test_limits_of_cues_are_checked(server: Any, speech: bytes, name: str, value: str) -> None:
    body = {"model": MODEL, "response_format": "srt", name: value}
    answer = httpx.post(
        f"{server.url}/v1/audio/transcriptions", files={"file": speech}, data=body, timeout=60
    )
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)
