"""`make demo` and `make serve`: the embedded checkpoint behind a real server, used over HTTP.

Needs nothing but this package: the checkpoint and the recordings are part of it.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CHECKPOINT = HERE / "checkpoints" / "tiny"
ALIGNER = HERE / "checkpoints" / "tiny-aligner"
RECORDINGS = HERE / "recordings"
MODEL = "qwen3-asr"
START_LIMIT_S = 600  # a busy laptop; a server that cannot start ends by itself
SAY_EVERY_S = 20


def main() -> None:
    """Transcribe the bundled recordings, or with --serve keep the server running."""
    parser = argparse.ArgumentParser(prog="python -m predictor.demo", description=main.__doc__)
    parser.add_argument("--serve", action="store_true", help="keep serving until Ctrl-C")
    parser.add_argument("--port", type=_port, default=8080, help="HTTP port (default 8080)")
    parser.add_argument(
        "--grpc-port", type=_port, help="with --serve (default: the one after --port)"
    )
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, _end)
    base_url = f"http://127.0.0.1:{args.port}"
    grpc_port = args.port + 1 if args.grpc_port is None else args.grpc_port
    server = _start(args.port, grpc_port if args.serve else None)
    try:
        _wait_ready(server, base_url)
        if args.serve:
            _say(_invitation(base_url, grpc_port))
            server.wait()
        else:
            _transcribe_all(base_url)
    except KeyboardInterrupt:
        _say("stopping")
    finally:
        server.terminate()
        server.wait()


def _port(given: str) -> int:
    """One that has another after it."""
    if not given.isdecimal() or not 1 <= int(given) < 65_535:
        raise argparse.ArgumentTypeError(f"{given!r} must be a port from 1 to 65534")
    return int(given)


def _end(signum: int, _frame: object) -> None:
    """SIGTERM ends this process as Ctrl-C does, and the server with it."""
    raise SystemExit(128 + signum)


def _start(port: int, grpc_port: int | None) -> subprocess.Popen[bytes]:
    """Raises SystemExit when the port is taken: another server would answer in our place."""
    for each in (port, grpc_port):
        with socket.socket() as probe:
            if each is not None and probe.connect_ex(("127.0.0.1", each)) == 0:
                target = "demo" if grpc_port is None else "serve"
                raise SystemExit(f"port {each} is in use; choose another: make {target} PORT=8090")
    command = [sys.executable, "-m", "predictor", "--model_dir", str(CHECKPOINT)]
    command += ["--aligner_dir", str(ALIGNER)]
    command += ["--http_port", str(port), "--host", "127.0.0.1"]
    command += ["--enable_grpc", "false"] if grpc_port is None else ["--grpc_port", str(grpc_port)]
    command += ["--log_level", "warning", "--enable_page", "true"]
    environment = {"OMP_NUM_THREADS": str(os.cpu_count() or 1), **os.environ}
    _say(f"starting the server on port {port} with {CHECKPOINT.name}, the embedded checkpoint ...")
    return subprocess.Popen(command, env=environment)  # noqa: S603  # our own command line


def _wait_ready(server: subprocess.Popen[bytes], base_url: str) -> None:
    """Raises SystemExit when the server ends, or is not ready within START_LIMIT_S."""
    start = said = time.monotonic()
    while time.monotonic() - start < START_LIMIT_S:
        if time.monotonic() - said >= SAY_EVERY_S:
            said = time.monotonic()
            _say(f"still starting after {said - start:.0f} s; other work on this machine slows it")
        if server.poll() is not None:
            raise SystemExit(f"the server ended with exit code {server.returncode}")
        try:
            with urllib.request.urlopen(f"{base_url}/v2/models/{MODEL}/ready", timeout=5):  # noqa: S310
                _say(f"ready after {time.monotonic() - start:.1f} s")
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise SystemExit(f"the server was not ready within {START_LIMIT_S} s")


def _infer(base_url: str, audio: bytes) -> dict[str, Any]:
    """One recording over the V2 protocol; the answer's outputs by name."""
    tensor = {
        "name": "audio",
        "datatype": "BYTES",
        "shape": [1],
        "data": [base64.b64encode(audio).decode()],
    }
    request = urllib.request.Request(  # noqa: S310  # http to this machine
        f"{base_url}/v2/models/{MODEL}/infer",
        data=json.dumps({"inputs": [tensor]}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=600) as answer:  # noqa: S310
        outputs = json.load(answer)["outputs"]
    return {output["name"]: output["data"][0] for output in outputs}


def _transcribe_all(base_url: str) -> None:
    for recording in json.loads((RECORDINGS / "recordings.json").read_text("utf-8")):
        result = _infer(base_url, (RECORDINGS / recording["audio"]).read_bytes())
        _say(
            f"{recording['audio']}  {result['duration']:.1f} s  {result['language']}  "
            f"confidence {result['confidence']:.2f}\n"
            f"    said   {recording['text']}\n"
            f"    heard  {result['text']}"
        )


def _invitation(base_url: str, grpc_port: int) -> str:
    example = RECORDINGS / "demo-en-1.flac"
    return (
        f"serving on {base_url} (gRPC on port {grpc_port}); Ctrl-C stops it.\n"
        f"Open {base_url}/ in a browser and speak, or paste into another terminal:\n"
        f"  curl -s {base_url}/api/v1/recognize -F audio=@{example}"
    )


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
