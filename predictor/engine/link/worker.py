"""The engine's process: the same engine, its requests from a socket and its tokens back into it.

The engine's own thread writes a step's tokens, all in one frame, as soon as it has them; the main
thread reads requests. The process ends when the server closes its end, whatever it is doing then.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import numpy as np

from predictor.engine.engine import Engine
from predictor.engine.link.wire import (
    Abort,
    Chunks,
    EngineSpec,
    Failed,
    Frames,
    Loaded,
    LoadFailed,
    Message,
    Pulse,
    Stepped,
    Submit,
    encode,
    pulse_s,
)
from predictor.engine.options import StepStats
from predictor.engine.start.context import open_early
from predictor.engine.stream import Delivery
from predictor.errors import AsrError, InternalError
from predictor.logs import configure_logging
from predictor.types import EngineRequest, Samples, TokenChunk

logger = logging.getLogger(__name__)

MAX_READ_BYTES: Final = 1 << 18
_MAX_FDS: Final = 64  # taken from the socket at once


@dataclass(frozen=True, slots=True)
class Built:
    """An engine, and where it runs."""

    engine: Engine
    loaded: Loaded


Build = Callable[[EngineSpec, Callable[[StepStats], None]], Built]


@dataclass(frozen=True, slots=True)
class RemoteSink:
    """Stands for a stream in the server."""

    request_id: str
    number: int
    outlet: Outbox


class Outbox:
    """Writes frames to the server. Used by any thread."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self._stepped = b""  # frames about steps, which wait for the next frame

    def hand_over(self, deliveries: Sequence[Delivery]) -> None:
        """One frame for all tokens of a step."""
        chunks = tuple((s.number, item) for s, item in deliveries if isinstance(item, TokenChunk))
        failed = [Failed(s.number, item) for s, item in deliveries if isinstance(item, AsrError)]
        self.post(*([Chunks(chunks)] if chunks else []), *failed)

    def observe(self, stats: StepStats) -> None:
        """The observer's news are in no hurry, and a step shall cost one system call."""
        with self._lock:
            self._stepped += encode(Stepped(stats))

    def post(self, *messages: Message) -> None:
        """Send now. Whoever calls need not care whether the server is still there."""
        frames = b"".join(map(encode, messages))
        with self._lock:
            frames, self._stepped = self._stepped + frames, b""
            with suppress(BrokenPipeError, ConnectionResetError):  # seen by the main thread too
                self._channel.sendall(frames)


class Inbox:
    """Reads frames from the server; the main thread's."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._frames = Frames()
        self._files: list[int] = []  # one for each Submit to come, in order

    def read(self) -> list[Message] | None:
        """What has arrived, waiting for something if need be; None when the server has gone."""
        try:
            data, files, flags, _ = socket.recv_fds(self._channel, MAX_READ_BYTES, _MAX_FDS)
        except ConnectionResetError:
            return None
        self._files += files
        if flags & socket.MSG_CTRUNC:  # later samples would go to the wrong requests
            raise RuntimeError("a request's samples were lost: too many open files")
        return self._frames.feed(data) if data else None

    def take_samples(self, num_samples: int) -> Samples:
        """The samples of the next Submit. Copied, because a mapping would keep the file open."""
        fd = self._files.pop(0)
        samples = np.empty(num_samples, dtype=np.float32)
        try:
            num_bytes = os.preadv(fd, [samples.data.cast("B")], 0)
        finally:
            os.close(fd)
        if num_bytes != samples.nbytes:
            raise RuntimeError(f"{num_bytes} bytes of samples came for {num_samples} samples")
        return samples


def build(spec: EngineSpec, on_step: Callable[[StepStats], None]) -> Built:
    """The engine as the server would build it. CheckpointError, ValueError."""
    open_early(spec.device)
    import torch

    from predictor.engine.start.build import build_engine, choose_device
    from predictor.model.precision import choose_precision

    logger.info("torch imported")
    if spec.num_threads is not None:
        torch.set_num_threads(spec.num_threads)
    device = choose_device(spec.device)
    precision = choose_precision(spec.dtype, device).name
    engine = build_engine(spec.model_path, device, precision, spec.options, on_step)
    return Built(engine, describe(engine, str(device), precision))


def describe(engine: Engine, device: str, dtype: str) -> Loaded:
    """What the server must know of an engine."""
    num_slots = engine.stats().num_slots
    return Loaded(engine.limits, num_slots, device, dtype.removeprefix("torch."))


def serve(
    engine: Engine, channel: socket.socket, inbox: Inbox, outbox: Outbox, pulse_s: float
) -> None:
    """Take requests until the server closes its end; every `pulse_s` say how the engine is."""
    readable = select.poll()
    readable.register(channel, select.POLLIN)
    next_pulse_s = 0.0
    while True:
        if (now_s := time.monotonic()) >= next_pulse_s:
            outbox.post(Pulse(engine.is_alive()))
            next_pulse_s = now_s + pulse_s
        if not readable.poll(1e3 * max(0.0, next_pulse_s - now_s)):
            continue
        messages = inbox.read()
        if messages is None:
            return
        for message in messages:
            _obey(message, engine, inbox, outbox)


def _obey(message: Message, engine: Engine, inbox: Inbox, outbox: Outbox) -> None:
    if isinstance(message, Abort):
        engine.abort(message.request_id)
        return
    assert isinstance(message, Submit), message
    try:
        request = EngineRequest(
            message.request_id,
            inbox.take_samples(message.num_samples),
            message.tokens_before,
            message.tokens_after,
            message.max_new_tokens,
            message.is_streamed,
        )
        engine.submit_to(RemoteSink(message.request_id, message.number, outbox), request)
    except AsrError as error:
        outbox.post(Failed(message.number, error))
    except Exception:
        logger.exception("request %s could not be taken", message.request_id)
        outbox.post(Failed(message.number, InternalError(message.request_id)))


def _end_with(channel: socket.socket, loaded: threading.Event) -> None:
    """Loading hears nothing; if the server goes meanwhile, so does this process."""

    def watch() -> None:
        hung_up = select.poll()
        hung_up.register(channel, select.POLLRDHUP)
        hung_up.poll()
        if not loaded.is_set():
            os._exit(1)

    threading.Thread(target=watch, name="server-watch", daemon=True).start()


def main(build: Build = build) -> None:
    """`python -m predictor.engine.link.worker FD`, started by the server."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)  # the server decides the order in which things end
    channel = socket.socket(fileno=int(sys.argv[1]))
    inbox, outbox = Inbox(channel), Outbox(channel)
    while not (first := inbox.read()):
        if first is None:
            return
    [spec] = first
    assert isinstance(spec, EngineSpec)
    configure_logging(spec.log_format, spec.log_level)
    is_loaded = threading.Event()
    _end_with(channel, is_loaded)
    try:
        built = build(spec, outbox.observe)
    except Exception as error:
        logger.exception("the engine cannot be loaded")
        outbox.post(LoadFailed(type(error).__name__, str(error)))
        raise SystemExit(1) from error
    is_loaded.set()
    outbox.post(built.loaded)
    built.engine.start()
    exit_code = 0
    try:
        serve(built.engine, channel, inbox, outbox, pulse_s(spec.options))
    except Exception:
        logger.exception("the engine's process cannot go on")
        exit_code = 1
    built.engine.stop()
    outbox.post()
    logging.shutdown()
    os._exit(exit_code)  # a step that hangs must not keep the process


if __name__ == "__main__":
    main()
