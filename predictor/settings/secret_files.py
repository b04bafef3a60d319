"""Files of keys and of TLS as an operator mounts them: read, and what is wrong with them in a line.

They are looked at before anything heavy is imported, so nothing here needs more than Python.
"""

from __future__ import annotations

import ssl
import time
from calendar import timegm
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

_CERTIFICATE: Final = "-----BEGIN CERTIFICATE-----"
_KEY: Final = "PRIVATE KEY-----"
_DAY_S: Final = 86_400
_SOON_S: Final = 14 * _DAY_S
_UTC_TIME: Final = 0x17  # ASN.1's tags of the two ways to write a time
_GENERALIZED_TIME: Final = 0x18
_VERSION: Final = 0xA0


def read_keys(path: Path) -> dict[str, bytes]:
    """Name -> key. Raises OSError, ValueError."""
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if not file.name.startswith("."))
        found = {file.name: file.read_bytes().strip() for file in files if file.is_file()}
        for name, key in found.items():
            if len(key.split()) > 1 or b"\0" in key:
                raise ValueError(f"{name}: must hold one key and nothing else")
        return {name: key for name, key in found.items() if key}
    keys: dict[str, bytes] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith(b"#"):
            continue
        if len(words) > 2:
            raise ValueError(f"line {number}: must be NAME KEY, or a key alone")
        name = words[0].decode() if len(words) == 2 else f"line-{number}"
        if name in keys:
            raise ValueError(f"line {number}: the name {name} is there twice")
        keys[name] = words[-1]
    return keys


def keys_problem(path: Path) -> str | None:
    """Why no request could be let in by the keys of `path`."""
    try:
        found = read_keys(path)
    except (OSError, ValueError) as error:
        return f"api_keys_file {path}: {error}"
    if not found:
        return f"api_keys_file {path}: holds no key; each line must be NAME KEY, or a key alone"
    return None


def tls_problem(cert_file: Path, key_file: Path) -> str | None:
    """Why no handshake could succeed with the two files."""
    for name, file, begins in (
        ("tls_cert_file", cert_file, _CERTIFICATE),
        ("tls_key_file", key_file, _KEY),
    ):
        try:
            text = file.read_text(encoding="ascii", errors="replace")
        except OSError as error:
            return f"{name} {file}: {error.strerror}"
        if begins not in text:
            what = "certificate" if begins == _CERTIFICATE else "private key"
            return f"{name} {file}: holds no {what} as PEM"
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert_file, key_file, password=no_passphrase)
    except ssl.SSLError as error:
        if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
            return f"tls_key_file {key_file}: is not the key of tls_cert_file {cert_file}"
        return f"tls_cert_file {cert_file} and tls_key_file {key_file}: {error}"
    return None


def no_passphrase() -> str:
    """In place of the question that OpenSSL asks at a terminal: nobody is there to answer."""
    said = "the key is encrypted; give one without a passphrase (openssl pkey -in …)"
    raise ssl.SSLError(1, said)


def certificate_note(cert_file: Path, now_s: float | None = None) -> str | None:
    """That the certificate is not valid by this machine's clock, or will not be within two weeks;
    None while it is fine."""
    try:
        begins_s, ends_s = validity_s(cert_file.read_text(encoding="ascii", errors="replace"))
    except (OSError, ValueError, IndexError):
        return None  # said otherwise
    now_s = time.time() if now_s is None else now_s
    day = datetime.fromtimestamp(ends_s, UTC).date()
    if now_s < begins_s:
        begins = datetime.fromtimestamp(begins_s, UTC).strftime("%Y-%m-%d %H:%M")
        clock = datetime.fromtimestamp(now_s, UTC).strftime("%Y-%m-%d %H:%M")
        return (
            f"tls_cert_file {cert_file}: is valid from {begins} UTC, and the clock says {clock}; "
            "clients will refuse it: set the clock, or give a certificate that is valid"
        )
    if now_s >= ends_s:
        return f"tls_cert_file {cert_file}: expired on {day}; clients will refuse it"
    if now_s >= ends_s - _SOON_S:
        days = int((ends_s - now_s) // _DAY_S)
        return f"tls_cert_file {cert_file}: expires on {day}, in {days} days"
    return None


def validity_s(pem: str) -> tuple[int, int]:
    """When the first certificate of a PEM text begins and ends to be valid, in seconds since 1970.
    Raises ValueError."""
    begin = pem.index(_CERTIFICATE)
    end = pem.index("-----END CERTIFICATE-----", begin) + len("-----END CERTIFICATE-----")
    der = ssl.PEM_cert_to_DER_cert(pem[begin:end])
    _, certificate, _ = _element(der, 0)
    tag, at, after = _element(der, certificate)  # what is signed
    tag, _, after = _element(der, at)
    if tag == _VERSION:
        at = after
    for _ in range(3):  # serial number, algorithm, issuer
        at = _element(der, at)[2]
    _, at, _ = _element(der, at)  # validity
    begins_s, at = _time(der, at)
    return begins_s, _time(der, at)[0]


def _time(der: bytes, at: int) -> tuple[int, int]:
    """The time at a place, and where the next element begins."""
    tag, at, after = _element(der, at)
    if tag not in (_UTC_TIME, _GENERALIZED_TIME):
        raise ValueError("not a time")
    text = der[at:after].decode("ascii")
    if tag == _UTC_TIME:  # two digits of a year: RFC 5280 says which century
        text = ("19" if text[:2] >= "50" else "20") + text
    return timegm(time.strptime(text, "%Y%m%d%H%M%SZ")), after


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """Tag, where the value begins, and where it ends, of the ASN.1 element at a place."""
    tag, length = der[at], der[at + 1]
    begin = at + 2
    if length & 0x80:
        num_bytes = length & 0x7F
        length = int.from_bytes(der[begin : begin + num_bytes], "big")
        begin += num_bytes
    return tag, begin, begin + length
