"""Keys and TLS as operators mount them, with certificates that `cryptography` makes and reads."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from predictor.settings.limits import clock_note
from predictor.settings.preflight import notes, problems
from predictor.settings.read import load_settings
from predictor.settings.secret_files import certificate_note, validity_s

NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
DAY = datetime.timedelta(days=1)
Key = ec.EllipticCurvePrivateKey


def pem(key: Key, passphrase: bytes | None = None) -> bytes:
    hidden = serialization.BestAvailableEncryption(passphrase) if passphrase else None
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        hidden or serialization.NoEncryption(),
    )


BEGINS = datetime.datetime(2019, 1, 1)


def certificate(key: Key, ends: datetime.datetime, begins: datetime.datetime = BEGINS) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "asr")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def mounted(tmp_path: Path, key: Key) -> Path:
    """A folder with a pair that fits and a file of keys."""
    (tmp_path / "tls.crt").write_bytes(certificate(key, NOW + 90 * DAY))
    (tmp_path / "tls.key").write_bytes(pem(key))
    (tmp_path / "keys").write_text("mobile abc\n")
    return tmp_path


def flags(folder: Path) -> list[str]:
    given = {"tls_cert_file": "tls.crt", "tls_key_file": "tls.key", "api_keys_file": "keys"}
    checkpoint = Path(__file__).parents[2] / "predictor" / "checkpoints" / "tiny"
    more = [f"--{name}={folder / file}" for name, file in given.items()]
    return [f"--model_dir={checkpoint}", "--http_port=0", "--grpc_port=0", *more]


def found(folder: Path) -> list[str]:
    return problems(load_settings(flags(folder), {}))


OTHER = ec.generate_private_key(ec.SECP256R1())
MISTAKES: dict[str, tuple[Callable[[Path, Key], object], str]] = {
    "another's key": (
        lambda d, _: (d / "tls.key").write_bytes(pem(OTHER)),
        "is not the key of tls_cert_file",
    ),
    "a key with a passphrase": (
        lambda d, key: (d / "tls.key").write_bytes(pem(key, b"secret")),
        "tls.key: the key is encrypted; give one without a passphrase",
    ),
    "the two swapped": (
        lambda d, key: (d / "tls.crt").write_bytes(pem(key)),
        "tls.crt: holds no certificate as PEM",
    ),
    "DER": (lambda d, _: (d / "tls.key").write_bytes(b"\x30\x82\xff"), "holds no private key"),
    "half of a certificate": (
        lambda d, _: (d / "tls.crt").write_bytes((d / "tls.crt").read_bytes()[:200]),
        "tls_cert_file",
    ),
    "no key in the file": (lambda d, _: (d / "keys").write_text("# none yet\n"), "holds no key"),
    "a folder that is of something else": (
        lambda d, _: [
            (d / "keys").unlink(),
            (d / "keys").mkdir(),
            (d / "keys" / "hosts").write_text("127.0.0.1 localhost\n"),
        ],
        "hosts: must hold one key and nothing else",
    ),
    "a key of three words": (lambda d, _: (d / "keys").write_text("a b c\n"), "line 1: must be"),
}


def test_what_fits_has_no_problem(mounted: Path) -> None:
    assert found(mounted) == []
    assert notes(load_settings(flags(mounted), {})) == []


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_that_names_the_file(mistake: str, mounted: Path, key: Key) -> None:
    spoil, said = MISTAKES[mistake]
    spoil(mounted, key)
    [problem] = found(mounted)
    assert said in problem
    assert str(mounted) in problem
    assert "\n" not in problem


@pytest.mark.parametrize("year", [2021, 2049, 2050, 2079])
def test_the_time_of_a_certificate_is_what_cryptography_reads(year: int, key: Key) -> None:
    """UTCTime until 2049, GeneralizedTime from 2050 on."""
    text = certificate(key, datetime.datetime(year, 5, 6, 7, 8, 9))
    read = x509.load_pem_x509_certificate(text)
    expected = read.not_valid_before_utc.timestamp(), read.not_valid_after_utc.timestamp()
    assert validity_s(text.decode()) == expected


def test_one_that_is_over_or_nearly_so_is_said(mounted: Path, key: Key) -> None:
    file = mounted / "tls.crt"
    file.write_bytes(certificate(key, NOW - DAY))
    [note] = notes(load_settings(flags(mounted), {}))
    assert f"expired on {(NOW - DAY).date()}" in note
    assert found(mounted) == []  # it can be served, and renewed under a running server
    file.write_bytes(certificate(key, NOW + 3 * DAY))
    assert "expires on" in (certificate_note(file, NOW.timestamp()) or "")
    file.write_bytes(certificate(key, NOW + 15 * DAY))
    assert certificate_note(file, NOW.timestamp()) is None


def test_a_clock_that_is_far_off_is_said(mounted: Path, key: Key) -> None:
    """A certificate of tomorrow is one of yesterday on a node whose clock stands still."""
    file = mounted / "tls.crt"
    file.write_bytes(certificate(key, NOW + 90 * DAY, NOW + DAY))
    [note] = notes(load_settings(flags(mounted), {}))
    assert note.startswith(f"tls_cert_file {file}: is valid from {NOW + DAY:%Y-%m-%d %H:%M} UTC")
    assert f"the clock says {NOW:%Y-%m-%d}" in note
    assert found(mounted) == []
    assert clock_note(NOW.timestamp()) is None
    assert "1970-01-01 00:00 UTC" in (clock_note(0.0) or "")
    assert "2099" in (clock_note(datetime.datetime(2099, 1, 1).timestamp()) or "")
