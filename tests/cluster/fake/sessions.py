"""Live sessions at the fake ingress, as the real server and Knative's route end them.

A session hears its pod's SIGTERM and its own time limit, and says so; the route's timeout and a pod
that has no word for it cut the connection. A session ages by each look at it in which nothing was
said, so on a busy machine it lives longer: seconds of settings pass in hundredths at most.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
from collections import Counter
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from tests.cluster.fake.controllers import FakeService
from tests.cluster.fake.workloads import Workload

Object = dict[str, Any]
FASTER = 100.0
LOOK_S = 0.02
PAUSE_BYTES = 9600  # silence that ends an utterance
GOING_AWAY, CUT = 1001, 1011
DEFAULT_SESSION_S = 570.0  # max_live_session_s
COMPLETED = "conversation.item.input_audio_transcription.completed"


class FakeSessions:
    """All sessions of a cluster, and the tokens by which others go on from them."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()  # by pod
        self._tokens: dict[str, int] = {}  # token -> items said before
        self._next = itertools.count(1)

    async def run(self, socket: WebSocket, service: FakeService, workload: Workload) -> None:
        """One session, from its upgrade to its close."""
        resume = socket.query_params.get("resume")
        if resume is not None and resume not in self._tokens:
            await socket.close(1008, "resume: no such token")
            return
        pod = min(workload.pods, key=lambda name: self._open[name])
        self._open[pod] += 1
        service.count(1)
        await socket.accept()
        try:
            await self._talk(socket, service, workload, pod, self._tokens.get(resume or "", 0))
        except WebSocketDisconnect:
            pass  # the client left
        finally:
            self._open[pod] -= 1
            service.count(-1)

    async def _talk(
        self, socket: WebSocket, service: FakeService, workload: Workload, pod: str, items: int
    ) -> None:
        await socket.send_json({"type": "session.created", "session": {}})
        age_s, is_speaking, is_silent = 0.0, False, True
        longest_s = number(workload, "--max_live_session_s", DEFAULT_SESSION_S)
        route_s = float(service.service["spec"]["predictor"]["timeout"])
        heard = asyncio.create_task(socket.receive_json())
        while True:
            done, _ = await asyncio.wait({heard}, timeout=LOOK_S)
            if done:
                said = base64.b64decode(heard.result().get("audio", ""))
                is_speaking, is_silent = is_speaking or any(said), not any(said[-PAUSE_BYTES:])
                heard = asyncio.create_task(socket.receive_json())
            else:
                age_s += LOOK_S * FASTER
                if is_speaking and is_silent:
                    is_speaking, items = False, items + 1
                    await socket.send_json({"type": COMPLETED, "transcript": "so it goes"})
            if age_s >= route_s:
                await socket.close(CUT, "the route's timeout")
                break
            reason = "expired" if age_s >= longest_s else "shutdown"
            if reason == "expired" or pod not in workload.pods:
                await self._end(socket, reason, items)
                break
        heard.cancel()

    async def _end(self, socket: WebSocket, reason: str, items: int) -> None:
        token = f"token-{next(self._next)}"
        self._tokens[token] = items
        said = {"type": "session.expiring", "reason": reason, "expires_in_s": 0, "resume": token}
        await socket.send_json({**said, "audio_done_ms": 1000 * items})
        await socket.close(GOING_AWAY, f"session {reason}, connect again with resume")


def number(workload: Workload, flag: str, default: float) -> float:
    """A flag's value: the last one counts."""
    given = [arg.split("=", 1) for arg in workload.predictor.container["args"] if "=" in arg]
    return float(dict(given).get(flag, default))
