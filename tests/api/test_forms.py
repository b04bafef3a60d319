"""Multipart bodies as clients send them, read alike, and what is wrong with others in one line."""

from __future__ import annotations

import email.mime.application
import email.mime.multipart
import email.mime.text
import re
from typing import Any

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from predictor.api.multipart import found_parameters, parameters_of, read_parts
from predictor.errors import InvalidInput

KIND = "multipart/form-data; boundary=b"
FILE = b'--b\r\nContent-Disposition: form-data; name="audio"; filename="a"\r\n\r\nDATA\r\n'
END = b"--b--\r\n"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (FILE + END, KIND),
        (FILE + b"--b--", KIND),
        (b"This is a preamble.\r\n" + FILE + END, KIND),
        (b"\r\n" + FILE + END, KIND),
        (FILE + END + b"an epilogue\r\n--b\r\n", KIND),
        (FILE.replace(b'filename="a"', b"filename*=UTF-8''%C3%BC.wav") + END, KIND),
        (FILE.replace(b'; filename="a"', b"") + END, KIND),
        (FILE.replace(b'filename="a"', b'filename="a;b\\"c.wav"') + END, KIND),
        (FILE.replace(b'name="audio"', b"name=audio") + END, KIND),
        (FILE.replace(b'; filename="a"', b'; name="audio"' * 7 + b'; name="x"' * 999) + END, KIND),
        (FILE.replace(b"Content-Disposition", b"content-DISPOSITION") + END, KIND),
        (FILE.replace(b"--b\r\n", b"--b \t\r\n") + END, KIND),
        (FILE + END, 'Multipart/Form-Data; charset=utf-8; Boundary="b"'),
        (FILE + END, "multipart/form-data; boundary=b; charset=utf-8"),
        (FILE + END, "multipart/form-data; boundary=b "),
        (FILE.replace(b"--b", b"--b c") + b"--b c--", 'multipart/form-data; boundary="b c"'),
        (
            FILE.replace(b"DATA", b"DATA") + b"--b\r\n" + FILE[5:].replace(b"audio", b"x") + END,
            KIND,
        ),
    ],
)
def test_the_file_of_a_form(body: bytes, kind: str) -> None:
    part = read_parts(bytearray(body), kind, 8)[0]
    assert (part.name, bytes(part.data)) == ("audio", b"DATA")


@pytest.mark.parametrize(
    ("body", "kind", "word"),
    [
        (FILE, KIND, "last boundary"),
        (FILE[:-6], KIND, "last boundary"),
        (b"", KIND, "first boundary"),
        (b"DATA", KIND, "first boundary"),
        (FILE + END, "multipart/form-data", "boundary"),
        (FILE + END, "multipart/form-data; boundary=", "boundary"),
        (FILE.replace(b'name="audio"; ', b"") + END, KIND, "name"),
        (FILE.replace(b"\r\n\r\nDATA", b"\r\nDATA") + END, KIND, "headers"),
        (b"--b\r\nX: " + b"x" * 20_000 + b"\r\n\r\n" + FILE + END, KIND, "16384"),
        (FILE * 9 + END, KIND, "8 parts"),
        (FILE.replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n") + END, KIND,
         "content-transfer-encoding"),
        (FILE.replace(b"form-data", b"attachment") + END, KIND, "name"),
        (FILE.replace(b'"a"', b'"\xff"') + END, KIND, "UTF-8"),
    ],
)  # fmt: skip
def test_a_form_that_is_not_right_is_refused_in_one_line(body: bytes, kind: str, word: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(word)):
        read_parts(bytearray(body), kind, 8)


@settings(deadline=None)
@given(st.dictionaries(st.from_regex(r"[a-z]{1,9}", fullmatch=True), st.binary(max_size=90)))
def test_forms_that_httpx_writes(fields: dict[str, bytes]) -> None:
    request = httpx.Request("POST", "http://x", files=fields or {"a": b""})
    parts = read_parts(bytearray(request.read()), request.headers["content-type"], 99)
    assert {part.name: bytes(part.data) for part in parts} == (fields or {"a": b""})


PIECES = ["form-data", "; name=", "; filename=", "; Name=", ";", '"', "\\", "a", " ", "*"]


@settings(deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=9))
@example(["form-data", "; name=", '"', "a", '"'])
@example(["form-data", "; name=", '"', "a", '"', '"'])
@example(["form-data", "; name=", '"', "a", ";", '"', "; filename=", '"', " ", '"'])
@example(["form-data", "; name=", '"', "a", '"', "; filename=", '"', "\\", '"'])
def test_headers_as_usual_are_read_as_any(pieces: list[str]) -> None:
    disposition = "".join(pieces)
    assert parameters_of(disposition) == found_parameters(disposition)


def test_a_form_that_the_standard_library_writes() -> None:
    form = email.mime.multipart.MIMEMultipart("form-data")
    part = email.mime.text.MIMEText("zh", _charset="us-ascii")
    part.add_header("Content-Disposition", "form-data", name="language")
    form.attach(part)
    head, _, body = form.as_bytes().replace(b"\n", b"\r\n").partition(b"\r\n\r\n")
    kind = re.sub(rb"\s+", b" ", head.partition(b": ")[2].partition(b"\r\nMIME")[0]).decode()
    [read] = read_parts(bytearray(body), kind, 9)
    assert (read.name, bytes(read.data)) == ("language", b"zh")


@settings(deadline=None)
@given(st.lists(st.sampled_from([FILE[:3], FILE[3:60], FILE[60:], END, b"\r\n", b"--", b"x"])))
def test_any_bytes_are_a_form_or_refused(pieces: list[bytes]) -> None:
    try:
        parts = read_parts(bytearray(b"".join(pieces)), KIND, 8)
    except InvalidInput:
        return
    assert all(part.name for part in parts)


def test_a_file_without_a_name_over_the_wire(
    server: Any, speech: bytes, said: list[dict[str, Any]]
) -> None:
    for disposition in (b"; filename*=UTF-8''%E4%BD%A0.flac", b""):
        body = b"preamble\r\n" + FILE.replace(b'; filename="a"', disposition)
        body = body.replace(b"DATA", speech) + END
        response = httpx.post(
            server.url + "/api/v1/recognize",
            content=body,
            headers={"content-type": KIND},
            timeout=60,
        )
        assert response.json()["text"] == said[0]["text"]
