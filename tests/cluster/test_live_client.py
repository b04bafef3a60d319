"""The cluster tests' live client against the real server: a session's end and its resumption."""

from __future__ import annotations

from urllib.parse import urlsplit

from pipelines.local_service import LocalService
from tests.cluster.answers import Entry
from tests.cluster.live import COMPLETED, open_session, talk
from tests.manifests.objects import ROOT

CHECKPOINT = ROOT / "predictor" / "checkpoints" / "tiny"


def test_a_session_ends_by_the_servers_word_and_is_resumed() -> None:
    flags = ("--max_live_session_s=4", "--device=cpu")
    with LocalService(CHECKPOINT, flags=flags) as service:
        entry, url = Entry(service.url), f"http://asr.example.com:{urlsplit(service.url).port}"
        query, done_ms = "", 0
        for _ in range(2):  # the second one goes on from the first
            with open_session(entry, url, query) as session:
                ended = talk(session, timeout_s=120)
            assert ended.code == 1001, ended
            assert "".join(event["transcript"] for event in ended.of(COMPLETED)).strip()
            last = ended.of("session.expiring")[-1]
            assert (last["reason"], last["expires_in_s"]) == ("expired", 0)
            assert last["audio_done_ms"] > done_ms
            query, done_ms = f"&resume={last['resume']}", last["audio_done_ms"]
        with open_session(entry, url, query) as session:
            assert "session" in session.recv(timeout=60)
