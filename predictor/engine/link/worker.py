"""The engine's process: a core, its requests from sockets and its tokens back into them.

The core's own thread writes a step's tokens, one frame for each server that waits for some; the
main thread reads requests. The process ends when whoever started it closes its end, whatever it is
doing then.
"""

from __future__ import annotations

import logging
import math
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from predictor.engine.core import EngineCore
from predictor.engine.link.channel import Inbox, Outbox
from predictor.engine.link.wire import (
    Abort,
    Chunks,
    Close,
    EngineSpec,
    Failed,
    Loaded,
    LoadFailed,
    Pulse,
    Stepped,
    Submit,
    Truncate,
    pulse_s,
)
from predictor.engine.options import StepStats
from predictor.engine.protocol import Emission
from predictor.engine.start.context import only_device, open_early
from predictor.errors import AsrError, InternalError, InvalidInput
from predictor.logs import configure_logging
from predictor.processes.heap import keep_freed_memory
from predictor.types import ExtendRequest, TokenChunk

logger = logging.getLogger(__name__)

# While the engine works, servers hear of its steps this often: who reads of dozens of them at once,
# just before the last tokens of a request, keeps that waiting for half a millisecond. When it comes
# to rest they hear of its last steps a little later: they are busy with an answer then, and perhaps
# with the next request of whoever got it.
TELL_EVERY_S: Final = 0.05
_TELL_AFTER_S: Final = 0.02
_FLUSH_EVERY_S: Final = 0.01  # what a server has not read yet: the last tokens may be among it


@dataclass(frozen=True, slots=True)
class Built:
    """A core, and where it runs."""

    core: EngineCore
    loaded: Loaded


OnStep = Callable[[StepStats], None]
Build = Callable[[EngineSpec, OnStep], Built]


class Connection:
    """One server that sends requests; they end with it."""

    def __init__(self, channel: socket.socket, core: EngineCore) -> None:
        self.channel = channel
        self.outbox = Outbox(channel)
        self._inbox = Inbox(channel)
        self._core = core
        self._numbers: dict[str, int] = {}  # of its requests in flight, by which it names them
        self._kept: set[str] = set()  # its sequences that stay alive

    def receive(self, emissions: Sequence[Emission]) -> None:
        """Called by the core: one frame for all tokens of a step."""
        chunks: list[tuple[int, TokenChunk]] = []
        failed: list[Failed] = []
        for request_id, item in emissions:
            number = self._numbers.get(request_id)
            if number is None:
                continue
            if isinstance(item, AsrError):
                failed.append(Failed(number, item))
            else:
                chunks.append((number, item))
            if isinstance(item, AsrError) or item.finish is not None:
                del self._numbers[request_id]
        self.outbox.post(*([Chunks(tuple(chunks))] if chunks else []), *failed)

    def obey(self) -> bool:
        """Do what has arrived; False when the server has gone."""
        messages = self._inbox.read()
        for message in messages or ():
            if isinstance(message, Abort):
                self._core.abort(message.request_id)
            elif isinstance(message, Truncate):
                self._truncate(message)
            elif isinstance(message, Close):
                self._kept.discard(message.sequence_id)
                self._core.close(self._ours(message.sequence_id))
            elif isinstance(message, Submit):
                self._submit(message)
            else:
                raise TypeError(f"{type(message).__name__} is not for an engine")
        return messages is not None

    def _truncate(self, message: Truncate) -> None:
        try:
            self._core.truncate(self._ours(message.sequence_id), message.num_samples)
        except InvalidInput:  # the server checks what it knows, and the next step is refused
            logger.warning("a kept sequence was to be truncated during its step")

    def _submit(self, message: Submit) -> None:
        request_id = message.request.request_id
        try:
            request = self._inbox.filled(message)
            self._numbers[request_id] = message.number
            if isinstance(request, ExtendRequest):
                self._kept.add(request.sequence_id)
                ours = replace(request, sequence_id=self._ours(request.sequence_id))
                self._core.extend(ours, self.receive)
            else:
                self._core.submit(request, self.receive)
        except AsrError as error:
            self._fail(message, error)
        except Exception:
            logger.exception("request %s could not be taken", request_id)
            self._fail(message, InternalError(request_id))

    def _ours(self, sequence_id: str) -> str:
        """Two servers may call theirs the same."""
        return f"{id(self)}:{sequence_id}"

    def _fail(self, message: Submit, error: AsrError) -> None:
        self._numbers.pop(message.request.request_id, None)
        self.outbox.post(Failed(message.number, error))

    def close(self) -> None:
        """Nobody waits for its requests any more."""
        for request_id in list(self._numbers):
            self._core.abort(request_id)
        for sequence_id in self._kept:
            self._core.close(self._ours(sequence_id))
        self._inbox.close()
        self.channel.close()


class Switchboard:
    """Servers come and go by a listener, while one core works for all of them.

    Whoever started this process says nothing once the core is loaded, hears that it lives, and
    ends everything by closing the socket.
    """

    def __init__(self, listener: socket.socket, parent: socket.socket) -> None:
        self._listener = listener
        self._parent = parent
        self._to_parent = Outbox(parent)
        self._connections: list[Connection] = []
        self._lock = threading.Lock()  # of both below
        self._steps: list[StepStats] = []  # that no server has heard of
        self._told_s = 0.0
        self._hangs = False
        self._rests, self._rest_began = socket.socketpair()  # one byte each time

    def observe(self, core: EngineCore, step: StepStats) -> None:
        """Note a step; servers hear of it when the engine has come to rest, or now and then."""
        with self._lock:
            self._steps.append(step)
        if step.num_running == step.num_waiting == 0:
            with suppress(BlockingIOError):
                self._rest_began.send(b"r", socket.MSG_DONTWAIT)
        elif time.monotonic() - self._told_s >= TELL_EVERY_S:
            self._tell_of_steps(core)

    def _tell_of_steps(self, core: EngineCore) -> None:
        """Tell all servers what is held now, and one of them of the steps, which counts them."""
        with self._lock:
            self._told_s = time.monotonic()
            steps, self._steps = tuple(self._steps), []
        now = core.stats()
        for connection in tuple(self._connections):
            connection.outbox.post(Stepped(now, steps))
            steps = ()

    def serve(self, core: EngineCore, loaded: Loaded, pulse_s: float) -> None:
        """Until the parent has gone. Raises RuntimeError when the core is beyond use, or hangs."""
        self._listener.setblocking(False)
        with selectors.DefaultSelector() as selector:
            selector.register(self._parent, selectors.EVENT_READ)
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._rests, selectors.EVENT_READ)
            next_pulse_s, tell_s = 0.0, math.inf
            while True:
                if (now_s := time.monotonic()) >= next_pulse_s:
                    self._pulse(core)
                    next_pulse_s = now_s + pulse_s
                if now_s >= tell_s:
                    self._tell_of_steps(core)
                    tell_s = math.inf
                is_behind = any(c.outbox.is_behind for c in self._connections)
                flush_s = now_s + _FLUSH_EVERY_S if is_behind else math.inf
                until_s = min(next_pulse_s, tell_s, flush_s)
                for key, _ in selector.select(max(0.0, until_s - now_s)):
                    if key.fileobj is self._parent:
                        return
                    if key.fileobj is self._listener:
                        self._accept(selector, core, loaded)
                    elif key.fileobj is self._rests:
                        self._rests.recv(4096)
                        tell_s = min(tell_s, time.monotonic() + _TELL_AFTER_S)
                    elif not self._attend(key.data):
                        selector.unregister(key.fileobj)
                        self._connections.remove(key.data)
                        key.data.close()
                for connection in self._connections:
                    if connection.outbox.is_behind:
                        connection.outbox.flush()

    def _pulse(self, core: EngineCore) -> None:
        if core.has_failed():
            raise RuntimeError("the device is beyond use")
        if self._hangs and not core.is_alive():  # and the servers have heard so
            raise RuntimeError("a step takes longer than stall_timeout_s: the device hangs")
        pulse = Pulse(core.is_alive(), core.stats())
        self._hangs = not pulse.is_alive
        if self._steps:
            self._tell_of_steps(core)
        for connection in self._connections:
            connection.outbox.post(pulse)
        self._to_parent.post(pulse)

    def _accept(self, selector: selectors.BaseSelector, core: EngineCore, loaded: Loaded) -> None:
        with suppress(BlockingIOError):
            channel, _ = self._listener.accept()
            channel.setblocking(True)
            connection = Connection(channel, core)
            connection.outbox.post(loaded, Pulse(core.is_alive(), core.stats()))
            self._connections.append(connection)
            selector.register(channel, selectors.EVENT_READ, connection)

    def _attend(self, connection: Connection) -> bool:
        try:
            return connection.obey()
        except Exception:
            logger.exception("a server's messages make no sense")
            return False


def build(spec: EngineSpec, on_step: OnStep) -> Built:
    """The engine as the server would build it. CheckpointError, ValueError."""
    ours = only_device(spec.device, os.environ)
    open_early(ours)
    import torch

    from predictor.engine.start.build import build_engine, choose_device
    from predictor.model.precision import choose_precision

    logger.info("torch imported")
    if spec.num_threads is not None:
        torch.set_num_threads(spec.num_threads)
    device = choose_device(ours)
    precision = choose_precision(spec.dtype, device).name
    core = build_engine(spec.model_path, device, precision, spec.options, on_step)
    name = spec.device if ":" in spec.device else str(device)
    return Built(core, describe(core, name, precision))


def describe(core: EngineCore, device: str, dtype: str) -> Loaded:
    """What the server must know of an engine."""
    return Loaded(core.limits, core.stats().num_slots, device, dtype.removeprefix("torch."))


def _end_with(parent: socket.socket, loaded: threading.Event) -> None:
    """Loading hears nothing; if whoever started us goes meanwhile, so does this process."""

    def watch() -> None:
        with suppress(OSError):
            parent.recv(1, socket.MSG_PEEK)
        if not loaded.is_set():
            os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def main(build: Build = build) -> None:
    """`python -m predictor.engine.link.worker PARENT_FD LISTENER_FD`."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)  # who started us decides how things end
    parent, listener = (socket.socket(fileno=int(fd)) for fd in sys.argv[1:3])
    inbox, outbox = Inbox(parent), Outbox(parent)
    while not (first := inbox.read()):
        if first is None:
            return
    [spec] = first
    assert isinstance(spec, EngineSpec)
    configure_logging(spec.log_format, spec.log_level)
    is_loaded = threading.Event()
    _end_with(parent, is_loaded)
    switchboard = Switchboard(listener, parent)
    cores: list[EngineCore] = []
    try:
        built = build(spec, lambda step: switchboard.observe(cores[0], step))
    except Exception as error:
        logger.exception("the engine cannot be loaded")
        outbox.post(LoadFailed(type(error).__name__, str(error)))
        raise SystemExit(1) from error
    cores.append(built.core)
    is_loaded.set()
    keep_freed_memory()  # samples of requests; what loading freed has gone
    built.core.start()
    outbox.post(built.loaded)
    exit_code = 0
    try:
        switchboard.serve(built.core, built.loaded, pulse_s(spec.options))
    except Exception:
        logger.exception("the engine's process cannot go on")
        exit_code = 1
    if not exit_code:  # else servers see that the process is gone, and say that it failed
        built.core.stop()
    logging.shutdown()
    os._exit(exit_code)  # a step that hangs must not keep the process


if __name__ == "__main__":
    main()
