"""The end of a job is told to the address that was given with it, as Standard Webhooks say.

At least once: what was not taken is told again, ever later, also after a restart; a receiver knows
by `webhook-id` what it has had. https://www.standardwebhooks.com
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import time
from contextlib import suppress
from typing import Final

import orjson

from predictor.jobs.outbound import Headers, Outbound
from predictor.jobs.records import JobRecord
from predictor.jobs.store import JobStore
from predictor.settings.webhook_key import webhook_key

logger = logging.getLogger(__name__)

_LOOK_S: Final = 1.0
_FIRST_WAIT_S: Final = 5.0
_MAX_WAIT_S: Final = 3600.0
_MAX_TRIES: Final = 12  # 5 s, 10 s, 20 s, … 1 h: some 2.5 hours in all


class Announcer:
    """Tells what the store has to tell, until cancelled."""

    def __init__(self, store: JobStore, outbound: Outbound, secret: str) -> None:
        """`secret`: signs what is told; see `webhook_key`."""
        self._store = store
        self._outbound = outbound
        self._key = webhook_key(secret)

    async def run(self) -> None:
        """One at a time: a receiver that hangs costs at most half a minute."""
        while True:
            try:
                while await self._tell_one():
                    pass
            except Exception:  # a full disk, a lost volume: there may be a better time
                logger.exception("webhooks wait")
            await asyncio.sleep(_LOOK_S)

    async def _tell_one(self) -> bool:
        notice = await asyncio.to_thread(self._store.take_notice, wait_s)
        if notice is None:
            return False
        job, num_tries = notice
        is_heard = await self._tell(job)
        if is_heard or num_tries + 1 >= _MAX_TRIES:
            await asyncio.to_thread(self._store.settle_notice, job.id, is_heard=is_heard)
        if not is_heard:
            fields = {"job": job.id, "tries": num_tries + 1}
            logger.warning("a webhook was not taken", extra={"fields": fields})
        return True

    async def _tell(self, job: JobRecord) -> bool:
        body = orjson.dumps(payload(job))
        message_id, now_s = f"job_{job.id}", int(time.time())
        headers: Headers = {
            "webhook-id": message_id,
            "webhook-timestamp": str(now_s),
            "webhook-signature": signature(self._key, message_id, now_s, body),
        }
        with suppress(OSError):
            return 200 <= await self._outbound.post(job.spec.webhook, body, headers) < 300
        return False


def payload(job: JobRecord) -> dict[str, object]:
    """What is told: that it has ended, not what was said."""
    return {
        "type": "transcription.job." + ("done" if job.state == "done" else "failed"),
        "timestamp": _iso(job.ended_s or job.created_s),
        "data": {
            "id": job.id,
            "status": job.state,
            "duration_s": job.duration_s,
            "error": None if job.error is None else dict(job.error),
        },
    }


def signature(key: bytes, message_id: str, timestamp_s: int, body: bytes) -> str:
    """`v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`."""
    signed = f"{message_id}.{timestamp_s}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def wait_s(num_tries: int) -> float:
    """Until it is told again, after so many tries before this one."""
    return float(min(_MAX_WAIT_S, _FIRST_WAIT_S * 2**num_tries))


def _iso(time_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time_s))
