"""What an operator sees of a running server: TLS, health over gRPC, a port of its own, its log."""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import signal
import ssl
import time
from pathlib import Path

import grpc
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.wrappers_pb2 import Int32Value, StringValue
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc

from predictor.api.tls import Certificate
from tests.api.conftest import RECORDINGS, Server, StartServer

TRACE = "0af7651916cd43dd8448eb211c80319c"


def write_certificate(folder: Path, serial: int) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "asr")])
    now = datetime.datetime.now(datetime.UTC)
    alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(alternative, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "tls.crt", folder / "tls.key"
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    return cert_file, key_file


def serial_at(host: str, port: int) -> int:
    """Of the certificate that a handshake gives now."""
    return x509.load_pem_x509_certificate(
        ssl.get_server_certificate((host, port)).encode()
    ).serial_number


@pytest.fixture(scope="module")
def secured(
    start_server: StartServer, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Server, Path]:
    """A server with TLS, keys in a file and a port for operators, and its folder."""
    folder = tmp_path_factory.mktemp("secured")
    cert_file, key_file = write_certificate(folder, 1)
    (folder / "keys").write_text("mobile s3cret\n")
    flags = [f"--tls_cert_file={cert_file}", f"--tls_key_file={key_file}", "--admin_port=0"]
    return start_server(*flags, f"--api_keys_file={folder / 'keys'}"), folder


def admin(server: Server) -> str:
    [line] = [line for line in server.lines if line["message"] == "listening"]
    return f"http://127.0.0.1:{line['admin_port']}"


def test_http_speaks_tls_and_new_handshakes_find_a_new_certificate(
    secured: tuple[Server, Path],
) -> None:
    server, folder = secured
    url = server.url.replace("http://", "https://")
    host, port = "127.0.0.1", int(url.rpartition(":")[2])
    context = ssl.create_default_context(cafile=str(folder / "tls.crt"))
    with httpx.Client(verify=context, headers={"x-api-key": "s3cret"}) as client:
        answer = client.post(
            f"{url}/api/v1/recognize",
            files={"audio": (RECORDINGS / "demo-en-1.flac").read_bytes()},
            headers={"x-request-id": "tls-1", "traceparent": f"00-{TRACE}-b7ad6b7169203331-01"},
        )
    assert answer.status_code == 200
    assert answer.content.endswith(b"}\n")
    assert serial_at(host, port) == 1
    write_certificate(folder, 2)
    while serial_at(host, port) != 2:  # bounded by the test's time limit
        time.sleep(0.2)


def test_the_line_of_a_request_says_who_and_how_long_and_not_what(
    secured: tuple[Server, Path],
) -> None:
    server, _ = secured
    [line] = [each for each in server.wait_for_log("tls-1") if each["logger"] == "predictor.access"]
    assert line["key"] == "mobile"
    assert line["trace_id"] == TRACE
    assert line["language"] == "English"
    assert line["finish_reason"] == "stop"
    assert line["audio_s"] == pytest.approx(3.0, abs=1.0)
    assert 0 < line["decode_s"] <= line["transcribe_s"] <= line["elapsed_s"]
    assert not {"s3cret", "Remind"} & set(json.dumps(server.lines).replace('"', " ").split())


def test_grpc_speaks_tls_and_health(secured: tuple[Server, Path]) -> None:
    """The messages of grpc.health.v1 have the fields of protobuf's wrappers."""
    server, folder = secured
    credentials = grpc.ssl_channel_credentials((folder / "tls.crt").read_bytes())
    with grpc.secure_channel(server.grpc, credentials) as channel:
        stub = grpc_predict_v2_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert stub.ServerReady(pb.ServerReadyRequest(), timeout=30).ready
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            StringValue.SerializeToString,
            Int32Value.FromString,
        )
        for service in ("", "inference.GRPCInferenceService"):
            assert check(StringValue(value=service), timeout=30).value == 1
        with pytest.raises(grpc.RpcError) as refused:
            check(StringValue(value="other"), timeout=30)
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        watch = channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            StringValue.SerializeToString,
            Int32Value.FromString,
        )
        assert next(watch(StringValue(value="other"), timeout=30)).value == 3


def test_operators_have_a_port_of_their_own(secured: tuple[Server, Path]) -> None:
    server, folder = secured
    base = admin(server)
    assert "qwen3_asr_requests" in httpx.get(f"{base}/metrics").text
    assert httpx.get(f"{base}/v2/health/ready").json() == {"ready": True}
    assert httpx.head(f"{base}/healthz").status_code == 200
    assert httpx.post(f"{base}/api/v1/recognize").status_code == 404
    context = ssl.create_default_context(cafile=str(folder / "tls.crt"))
    url = server.url.replace("http://", "https://")
    assert httpx.get(f"{url}/metrics", verify=context).status_code == 404
    assert httpx.get(f"{url}/v2/health/ready", verify=context).status_code == 200


def test_a_signal_changes_the_level(secured: tuple[Server, Path]) -> None:
    server, _ = secured
    base = admin(server)
    assert httpx.get(f"{base}/healthz").status_code == 200
    os.kill(server.process.pid, signal.SIGUSR1)
    url = server.url.replace("http://", "https://")
    for _ in range(100):  # the handler runs between two steps of the loop
        httpx.get(f"{url}/healthz", verify=False, headers={"x-request-id": "loud"})
        if any(line.get("request_id") == "loud" for line in server.lines):
            break
    assert server.wait_for_log("loud")[0]["level"] == "debug"
    os.kill(server.process.pid, signal.SIGUSR1)


def test_a_pair_that_does_not_fit_is_left_aside(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    cert_file, key_file = write_certificate(tmp_path, 1)
    certificate = Certificate(cert_file, key_file)
    assert not certificate.look()
    other, other_key = write_certificate(tmp_path / "other", 2)
    cert_file.write_bytes(other.read_bytes())
    assert not certificate.look()  # the key is not there yet
    key_file.write_bytes(other_key.read_bytes())
    assert certificate.look()
    assert not certificate.look()
