"""What jobs fetch and tell, against a web server, and which addresses they never reach."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from predictor.errors import InvalidInput, PayloadTooLarge
from predictor.jobs.announcer import signature, wait_s
from predictor.jobs.outbound import (
    FetchError,
    FetchLaterError,
    Outbound,
    OutboundOptions,
    is_public,
)
from predictor.jobs.store import JobStore
from predictor.settings.webhook_key import webhook_key
from tests.jobs.conftest import SECRET, Jobs, Site, until
from tests.jobs.test_store import LIMITS, SPEC


def fetched(outbound: Outbound, url: str, path: Path, max_bytes: int = 1000) -> bytes:
    size = asyncio.run(outbound.fetch(url, path, max_bytes))
    data = path.read_bytes()
    assert len(data) == size
    return data


def inside(site: Site, *paths: str) -> Outbound:
    prefixes = tuple(site.url + path for path in paths)
    return Outbound(OutboundOptions(prefixes, allow_private=True, timeout_s=20))


def test_a_recording_is_fetched_and_redirects_are_followed_where_they_are_allowed(
    site: Site, tmp_path: Path
) -> None:
    site.answers["/a/one"] = [(302, {"location": "/b/two?signed=1"}, b"")]
    site.answers["/b/two"] = [(200, {}, b"recording")]
    site.answers["/a/away"] = [(302, {"location": "/c/three"}, b"")]
    site.answers["/a/round"] = [(307, {"location": "/a/round"}, b"")]
    outbound = inside(site, "/a", "/b/")
    assert fetched(outbound, f"{site.url}/a/one?x=1", tmp_path / "file") == b"recording"
    with pytest.raises(InvalidInput, match="not among the addresses"):
        fetched(outbound, f"{site.url}/a/away", tmp_path / "away")
    with pytest.raises(FetchError, match="redirects"):
        fetched(outbound, f"{site.url}/a/round", tmp_path / "round")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((404, {}, b""), FetchError),
        ((403, {}, b""), FetchError),
        ((503, {}, b""), FetchLaterError),
        ((429, {}, b""), FetchLaterError),
        ((200, {}, bytes(1001)), PayloadTooLarge),
        ((200, {"content-length": "20000000000"}, b"short"), PayloadTooLarge),
        ((200, {"content-length": "100"}, b"short"), FetchLaterError | FetchError),
    ],
)
def test_what_goes_wrong_leaves_no_file(
    site: Site, tmp_path: Path, answer: Any, error: Any
) -> None:
    site.answers["/a"] = [answer]
    path = tmp_path / "file"
    kinds = (FetchLaterError, FetchError) if "100" in answer[1].values() else error
    with pytest.raises(kinds):
        fetched(inside(site, "/a"), f"{site.url}/a", path)
    assert not path.exists()


def test_private_addresses_are_not_reached_whatever_the_name(tmp_path: Path) -> None:
    outbound = Outbound(OutboundOptions(("https://localhost/", "https://127.0.0.1/")))
    for url in ("https://localhost/a", "https://127.0.0.1/a"):
        with pytest.raises(FetchError, match="not public"):
            fetched(outbound, url, tmp_path / "file")
    with pytest.raises(ValueError, match="only https"):
        Outbound(OutboundOptions(("http://example.com/",)))


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
     "0.0.0.0", "224.0.0.1", "64:ff9b::7f00:1", "2002:a00:1::", "255.255.255.255", "::1", "::",
     "fe80::1%eth0", "fd00::1", "::ffff:127.0.0.1",
     "::ffff:169.254.169.254", "2002:7f00:1::", "64:ff9b:1::1", "ff02::1"],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)
    assert is_public("8.8.8.8")
    assert is_public("2606:4700::1111")


@pytest.mark.parametrize(
    "url",
    [
        "https://store.example.evil.com/in/a",
        "https://store.example@evil.com/in/a",
        "https://evil.com/https://store.example/in/",
        "https://store.example/in/../out/a",
        "https://store.example/in/%2e%2e/out/a",
        "https://store.example/in/..%2fout",
        "https://store.example/inside",
        "https://store.example:444/in/a",
        "http://store.example/in/a",
        "https://store.example/out/a",
        "https://store.example\\@evil.com/in/a",
        "https://store.example/in/a#b",
        "https://store.example/in/ a",
        "https://store.example:x/in/a",
        "https://store.example/in/" + 3000 * "a",
        "https://[::1]/in/a",
        "https:///in/a",
        "ftp://store.example/in/a",
        "//store.example/in/a",
        "file:///in/a",
        "",
    ],
)
def test_what_is_not_below_the_allowed_address_is_refused(url: str) -> None:
    outbound = Outbound(OutboundOptions(("https://store.example/in/",)))
    with pytest.raises(InvalidInput, match="url:"):
        outbound.check(url, "url", "job_url_prefixes")
    outbound.check("https://STORE.example/in/a?b=c", "url", "job_url_prefixes")
    outbound.check("https://store.example:443/in/a/b.wav", "url", "job_url_prefixes")


@given(st.text(max_size=60))
def test_any_text_is_refused_by_name_or_allowed_whole(text: str) -> None:
    outbound = Outbound(OutboundOptions(("https://store.example/in/",)))
    try:
        outbound.check(text, "url", "job_url_prefixes")
    except InvalidInput:
        return
    assert text.lower().startswith("https://store.example")


def test_the_signature_is_that_of_standard_webhooks() -> None:
    """The example of the specification's own tests, and whatever their library for Python signs."""
    body = b'{"test": 2432232314}'
    said = signature(webhook_key(SECRET), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert said == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    when = datetime.fromtimestamp(1790000000, UTC)
    for secret in (SECRET, "whsec_AAECAwQFBgcICQoLDA0ODw==", "whsec_AAECAwQFBgcICQoLDA0ODw"):
        theirs = Webhook(secret).sign("job_1", when, '{"text": "你好"}')
        assert signature(webhook_key(secret), "job_1", 1790000000, '{"text": "你好"}'.encode()) == (
            theirs
        )
    theirs = Webhook(b"any text").sign("job_1", when, "{}")
    assert signature(webhook_key("any text"), "job_1", 1790000000, b"{}") == theirs
    assert [wait_s(n) for n in (0, 1, 2, 20)] == [5.0, 10.0, 20.0, 3600.0]


def test_what_is_to_be_told_waits_in_the_store_until_it_was_taken(tmp_path: Path) -> None:
    now = 1000.0
    store = JobStore(tmp_path, LIMITS, clock=lambda: now)
    job = store.add("", b"audio", replace(SPEC, webhook="https://store.example/in/"))
    store.take("me")
    assert store.take_notice(wait_s) is None
    store.fail(job.id, "me", {"message": "no", "code": "x", "param": None})
    store.close()
    store = JobStore(tmp_path, LIMITS, clock=lambda: now)  # after a crash
    taken = store.take_notice(wait_s)
    assert taken is not None
    assert (taken[0].id, taken[1]) == (job.id, 0)
    assert store.take_notice(wait_s) is None  # another replica does not tell it too
    now += 5.0
    again = store.take_notice(wait_s)
    assert again is not None
    assert again[1] == 1
    store.settle_notice(job.id, is_heard=True)
    now += 1e6
    assert store.take_notice(wait_s) is None
    store.close()


def test_a_job_is_fetched_transcribed_and_told(jobs: Jobs, site: Site, speech: bytes) -> None:
    site.answers["/in/call.flac"] = [(503, {}, b""), (200, {}, speech)]
    site.answers["/hook"] = [(500, {}, b""), (204, {}, b"")]
    asked = {"model": "qwen3-asr", "url": f"{site.url}/in/call.flac"}
    form: dict[str, Any] = {name: (None, value) for name, value in asked.items()}
    for name, value in (("url", f"{site.url}/out/x"), ("webhook", "https://example.com/")):
        bad = jobs.http.post("/v1/jobs", files={**form, name: (None, value)})
        assert (bad.status_code, bad.json()["error"]["param"]) == (400, name)
    both = jobs.http.post("/v1/jobs", files={**form, "file": speech})
    assert both.json()["error"]["param"] == "file"
    made = jobs.http.post("/v1/jobs", files={**form, "webhook": (None, f"{site.url}/hook")}).json()
    job = jobs.done(made["id"])
    assert job["bytes"] == len(speech)
    expected = jobs.transcription(speech).json()["text"]
    assert jobs.result(made["id"]).json()["text"] == expected
    told = until(lambda: jobs.job(made["id"]), lambda job: job["webhook"] != "pending")
    assert told["webhook"] == "delivered"
    (first, body), (second, again) = site.heard[:2]
    assert body == again
    assert first["webhook-id"] == second["webhook-id"]
    assert json.loads(body)["data"] == {
        "id": made["id"],
        "status": "done",
        "duration_s": job["progress"]["duration_s"],
        "error": None,
    }
    for headers in (first, second):
        assert Webhook(SECRET).verify(body, headers) == json.loads(body)
        with pytest.raises(WebhookVerificationError):
            Webhook(SECRET).verify(body + b" ", headers)


def test_a_webhook_needs_a_secret(tmp_path: Path) -> None:
    from predictor.settings.read import SettingsError, load_settings

    flags = [f"--jobs_dir={tmp_path}", "--job_webhook_prefixes=https://a.example/"]
    with pytest.raises(SettingsError, match="job_webhook_secret"):
        load_settings(flags, {})
    for secret in ("whsec_", "whsec_AAECA", "whsec_?!"):
        with pytest.raises(SettingsError, match="base64 behind whsec_") as refused:
            load_settings(flags, {"QWEN3_ASR_JOB_WEBHOOK_SECRET": secret})
        assert f"={secret}" not in str(refused.value)
    with pytest.raises(SettingsError, match="only https"):
        load_settings(["--job_url_prefixes=http://a.example/"], {})
