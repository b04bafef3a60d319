"""A full server refuses gRPC calls by their metadata, with the table's code, and clients may retry.

The client is gRPC's own, which knows of `grpc-retry-pushback-ms` (gRPC's proposal A6).
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from prometheus_client import CollectorRegistry

from predictor.server import AsrServer, build_server
from predictor.settings.read import load_settings

CHECKPOINT = Path(__file__).parents[2] / "predictor" / "checkpoints" / "tiny"
INFER = "/inference.GRPCInferenceService/ModelInfer"
MESSAGE: bytes = pb.ModelInferRequest(model_name="qwen3-asr").SerializeToString()
KEY = (("x-api-key", "a-key-of-an-operator"),)
MANY = 400  # calls at once of one client
RETRY = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 2,
                "initialBackoff": "0.01s",
                "maxBackoff": "0.01s",
                "backoffMultiplier": 1,
                "retryableStatusCodes": ["RESOURCE_EXHAUSTED"],
            },
        }
    ]
}
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture(scope="module")
def server(registry: CollectorRegistry) -> Iterator[AsrServer]:
    argv = [f"--model_dir={CHECKPOINT}", "--device=cpu", "--max_held_audio_s=10"]
    settings = load_settings(argv, {"QWEN3_ASR_API_KEYS": KEY[0][1]})
    built: AsrServer = build_server(settings, registry)
    built.model.load()
    yield built
    built.model.stop()


@asynccontextmanager
async def channel_to(server: AsrServer, *options: Any) -> AsyncIterator[grpc.aio.Channel]:
    rpc = server.grpc_server()
    port = rpc.add_insecure_port("127.0.0.1:0")
    await rpc.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", list(options)) as channel:
        yield channel
    await rpc.stop(None)


@contextmanager
def full(server: AsrServer) -> Iterator[None]:
    assert server.model.loaded is not None
    with server.model.loaded.transcriber.admission.hold(10.1):
        yield


async def refusal(call: Any) -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        await call
    return caught.value


async def silent() -> AsyncIterator[bytes]:
    await asyncio.Event().wait()
    yield b""


async def test_a_call_is_refused_before_its_message_comes(server: AsrServer) -> None:
    async with channel_to(server) as channel:
        infer = channel.stream_unary(INFER)
        with full(server):
            refused = await refusal(infer(silent(), metadata=(*KEY, ("x-request-id", "mine"))))
            unknown = await refusal(infer(silent()))
    assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    trailing = dict(refused.trailing_metadata())
    assert (trailing["error-code"], trailing["x-request-id"]) == ("overloaded", "mine")
    assert int(trailing["grpc-retry-pushback-ms"]) == 1000 * int(trailing["retry-after"])
    assert unknown.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_refusal_is_counted_and_logged(
    server: AsrServer, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    labels = {"protocol": "grpc", "code": "429"}
    before = registry.get_sample_value("qwen3_asr_requests_total", labels) or 0.0
    async with channel_to(server) as channel:
        with full(server), caplog.at_level("INFO"):
            await refusal(
                channel.unary_unary(INFER)(MESSAGE, metadata=(*KEY, ("traceparent", parent)))
            )
    [line] = [r.fields for r in caplog.records if getattr(r, "fields", {}).get("status") == 429]
    assert (line["key"], line["error"], line["trace_id"]) == (
        "key-1", "overloaded", "0af7651916cd43dd8448eb211c80319c"
    )  # fmt: skip
    assert registry.get_sample_value("qwen3_asr_requests_total", labels) == before + 1


async def test_grpcs_own_client_tries_again_when_the_answer_says_so(
    server: AsrServer, caplog: pytest.LogCaptureFixture
) -> None:
    """It retries what ends without an answer's beginning, and not before the time it is told."""
    async with channel_to(server, ("grpc.service_config", json.dumps(RETRY))) as channel:
        with full(server), caplog.at_level("INFO"):
            refused = await refusal(channel.unary_unary(INFER)(MESSAGE, metadata=KEY))
    assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    tries = [r.created for r in caplog.records if getattr(r, "fields", {}).get("status") == 429]
    assert len(tries) == 2
    assert tries[1] - tries[0] >= 0.9  # told: 1 s or more; it would wait 10 ms by itself


async def test_many_calls_of_one_client_all_get_the_tables_answer(server: AsrServer) -> None:
    """More than a hundred of one connection were ended by the library: UNAVAILABLE."""
    async with channel_to(server) as channel:
        infer = channel.unary_unary(INFER)
        message = MESSAGE + bytes(50_000)  # its end is never read
        with full(server):
            ends = await asyncio.gather(
                *(refusal(infer(message, metadata=KEY)) for _ in range(MANY))
            )
    assert Counter(end.code() for end in ends) == {grpc.StatusCode.RESOURCE_EXHAUSTED: MANY}


async def test_a_call_that_takes_too_long_is_logged_as_such(
    server: AsrServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not as one whose client left."""

    async def forever(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(server.dataplane, "get_model", forever)
    monkeypatch.setattr("predictor.api.grpc_server.AsrServicer.ModelInfer", shortened())
    async with channel_to(server) as channel:
        with caplog.at_level("INFO"):
            late = await refusal(channel.unary_unary(INFER)(MESSAGE, metadata=KEY))
    assert late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    [line] = [r.fields for r in caplog.records if getattr(r, "fields", {}).get("protocol")]
    assert (line["status"], line["error"]) == (504, "deadline_exceeded")


def shortened() -> Any:
    from predictor.api.grpc_server import AsrServicer

    infer = AsrServicer.ModelInfer

    async def within(self: Any, message: Any, context: Any, _timeout_s: float) -> Any:
        return await infer(self, message, context, 0.2)

    return within
