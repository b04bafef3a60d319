"""What `doctor` says of a cluster: as kubectl finds it, and as a pod's own token does over TLS."""

from __future__ import annotations

import datetime
import ipaddress
import json
import shutil
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from predictor.cli.cluster import NONE_NEEDED, look

KSERVE = "/apis/serving.kserve.io"
needs_kubectl = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="kubectl is not installed (Debian: kubernetes-client)"
)


class Api(BaseHTTPRequestHandler):
    """As much of a Kubernetes API as is asked."""

    paths: ClassVar[dict[str, dict[str, str]]] = {}
    token: ClassVar[str] = ""

    def do_GET(self) -> None:
        """200, 401 for another token, 404 for what is not there."""
        found = self.paths.get(self.path.partition("?")[0])
        right = not self.token or self.headers["authorization"] == f"Bearer {self.token}"
        body = json.dumps(found or {"kind": "Status", "apiVersion": "v1", "code": 404}).encode()
        self.send_response((200 if found else 404) if right else 401)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(Api, "token", "")
    monkeypatch.setattr(Api, "paths", {"/version": {"gitVersion": "v1.34.4"}})


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        yield server
        server.shutdown()


def serve(server: ThreadingHTTPServer) -> None:
    threading.Thread(target=server.serve_forever, daemon=True).start()


def config(folder: Path, address: str) -> Path:
    file = folder / "config"
    file.write_text(
        f"apiVersion: v1\nkind: Config\nclusters: [{{name: c, cluster: {{server: '{address}'}}}}]\n"
        "contexts: [{name: c, context: {cluster: c, user: u}}]\nusers: [{name: u, user: {}}]\n"
        "current-context: c\n"
    )
    return file


def test_no_cluster_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert look() == (False, NONE_NEEDED)
    monkeypatch.setenv("KUBECONFIG", "/absent")
    assert look() == (False, "KUBECONFIG=/absent: no such file")


@needs_kubectl
def test_kubectl_finds_the_cluster_and_kserve(
    server: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(server)
    file = config(tmp_path, f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("KUBECONFIG", f"/absent:{file}")
    assert look() == (False, f"{file}: Kubernetes v1.34.4 answers, without KServe: install it")
    Api.paths[KSERVE] = {"kind": "APIGroup"}
    assert look() == (True, f"{file}: Kubernetes v1.34.4 answers, with KServe")


@needs_kubectl
def test_a_cluster_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(config(tmp_path, "http://127.0.0.1:9")))
    is_fine, said = look()
    assert not is_fine
    assert "refused" in said
    assert said.endswith("try kubectl cluster-info")
    assert "\n" not in said


def test_a_pods_own_token_is_used(
    server: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    serve(server)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.server_port))
    is_fine, said = look(tmp_path)
    assert is_fine
    assert "without a service account's token" in said
    (tmp_path / "token").write_text("right\n")
    monkeypatch.setattr(Api, "token", "right")
    assert look(tmp_path) == (
        False,
        "inside a pod of Kubernetes v1.34.4; KServe is not there (404)",
    )
    Api.paths[KSERVE] = {"kind": "APIGroup"}
    assert look(tmp_path) == (True, "inside a pod of Kubernetes v1.34.4, with KServe")
    (tmp_path / "token").write_text("wrong")
    is_fine, said = look(tmp_path)
    assert not is_fine
    assert "does not answer (" in said


def make_certificate(folder: Path) -> Path:
    """Of 127.0.0.1, its own authority: `ca.crt`, and what a server loads."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "api")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    ).public_bytes(serialization.Encoding.PEM)
    (folder / "ca.crt").write_bytes(made)
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    private = key.private_bytes(pem, form, serialization.NoEncryption())
    (folder / "chain.pem").write_bytes(made + private)
    return folder / "chain.pem"
