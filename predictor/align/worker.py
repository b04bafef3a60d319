"""The aligner's process: takes requests from sockets, some at a time, and answers with times.

One thread does all of it. A batch costs the device hundreds of small kernels whatever its size, so
those who come while it is busy wait for each other: a full batch is started behind the one that
runs, any other when that one is done. It ends when whoever started it closes its end.
"""

from __future__ import annotations

import logging
import math
import selectors
import socket
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from predictor.align.passes import Marked, Model, Started, aligned
from predictor.align.process import READY
from predictor.align.wire import (
    MAX_MESSAGE_BYTES,
    AlignerInfo,
    AlignerSpec,
    Answer,
    Times,
    question_from_json,
    read_samples,
    read_words,
    receive,
    send,
    spec_from_json,
    times_file,
)
from predictor.logs import configure_logging
from predictor.types import SAMPLE_RATE_HZ

logger = logging.getLogger(__name__)

MAX_UNDER_WAY: Final = 2  # batches on the device: a full one is ready when one ends
LOOK_EVERY_S: Final = 0.001  # whether one has ended


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    channel: socket.socket
    item: Marked

    @property
    def audio_s(self) -> float:
        return len(self.item.samples) / SAMPLE_RATE_HZ


@dataclass(frozen=True, slots=True, eq=False)
class _Running:
    """A batch on the device."""

    batch: Sequence[_Waiting]
    started: Started | None  # None: it could not be

    @property
    def is_done(self) -> bool:
        return self.started is None or self.started.is_done


class Desk:
    """Takes requests and answers them in the order in which they came."""

    def __init__(
        self,
        listener: socket.socket,
        parent: socket.socket,
        model: Model,
        info: AlignerInfo,
        *,
        max_batch_s: float,
        max_waiting: int,
        gather_s: float = 0.0,
    ) -> None:
        """`gather_s`: at least so long from one batch's start to the next one's, unless it is
        full."""
        self._listener = listener
        self._parent = parent
        self._model = model
        self._info = info
        self._max_batch_s = max_batch_s
        self._max_waiting = max_waiting
        self._gather_s = gather_s
        self._next_s = -math.inf  # when a batch that is not full may begin
        self._line: deque[_Waiting] = deque()
        self._under_way: deque[_Running] = deque()  # oldest first
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        """Until the parent has gone."""
        self._listener.setblocking(False)
        with self._selector as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._parent, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select(self._patience_s()):
                    if key.fileobj is self._parent:
                        return
                    if key.fileobj is self._listener:
                        self._accept()
                    else:
                        assert isinstance(key.fileobj, socket.socket)
                        self._hear(key.fileobj)
                if self._has_news():
                    continue
                done = self._done()
                if self._wait_s() == 0:  # first of all: the device has nothing to do
                    self._next_s = time.monotonic() + self._gather_s
                    self._under_way.append(self._begin(self._batch()))
                # On a CPU a batch is done when it has begun: it is not to wait for the next one.
                for running in [*done, *self._done()]:
                    self._answer(running)

    def _done(self) -> list[_Running]:
        """The batches that are, oldest first; they are no longer under way."""
        done: list[_Running] = []
        while self._under_way and self._under_way[0].is_done:
            done.append(self._under_way.popleft())
        return done

    def _patience_s(self) -> float | None:
        """How long nothing need happen but news."""
        wait_s = self._wait_s()
        if self._under_way:
            return LOOK_EVERY_S if wait_s is None else min(wait_s, LOOK_EVERY_S)
        return wait_s

    def _wait_s(self) -> float | None:
        """How long until a batch may begin; None where something else must happen first."""
        if not self._line or len(self._under_way) >= MAX_UNDER_WAY:
            return None
        if self._is_full():
            return 0
        return None if self._under_way else max(0, self._next_s - time.monotonic())

    def _is_full(self) -> bool:
        """Whether waiting makes the next batch no larger."""
        if len(self._line) >= self._max_waiting:
            return True
        return sum(waiting.audio_s for waiting in self._line) >= self._max_batch_s

    def _has_news(self) -> bool:
        """Whether more can be read first: those who come together run together."""
        return bool(self._selector.select(0)) and len(self._line) < self._max_waiting

    def _accept(self) -> None:
        with suppress(BlockingIOError):
            channel, _ = self._listener.accept()
            self._selector.register(channel, selectors.EVENT_READ)

    def _hear(self, channel: socket.socket) -> None:
        """A request, or the end of one that is not wanted any more."""
        line, files = receive(channel)
        with ExitStack() as stack:
            for file in files:
                stack.enter_context(file)
            if not line:
                self._forget(channel)
            elif not files:
                self._say(channel, Answer(info=self._info))
            elif len(self._line) >= self._max_waiting:
                self._say(channel, Answer(error="busy"))
            else:
                samples = read_samples(files[0], question_from_json(line).num_samples)
                self._line.append(_Waiting(channel, Marked(samples, read_words(files[1]))))

    def _forget(self, channel: socket.socket) -> None:
        self._line = deque(waiting for waiting in self._line if waiting.channel is not channel)
        self._selector.unregister(channel)
        channel.close()

    def _say(self, channel: socket.socket, answer: Answer, *files: BinaryIO) -> None:
        with suppress(OSError):  # the server has gone
            send(channel, answer, *files)

    def _batch(self) -> list[_Waiting]:
        """Those at the front of the line that fit together, at least one."""
        batch = [self._line.popleft()]
        audio_s = batch[0].audio_s
        while self._line and audio_s + self._line[0].audio_s <= self._max_batch_s:
            batch.append(self._line.popleft())
            audio_s += batch[-1].audio_s
        return batch

    def _begin(self, batch: Sequence[_Waiting]) -> _Running:
        try:
            return _Running(batch, Started(self._model, [waiting.item for waiting in batch]))
        except Exception:  # noqa: BLE001  tried again one by one, where it is logged
            return _Running(batch, None)

    def _answer(self, running: _Running) -> None:
        for waiting, times in zip(running.batch, self._times(running), strict=True):
            if times is None:
                self._say(waiting.channel, Answer(error="failed"))
            else:
                with times_file(times) as file:
                    self._say(waiting.channel, Answer(num_words=len(times)), file)

    def _times(self, running: _Running) -> Sequence[Times | None]:
        """None for what the model fails on, which may not cost the others of its batch theirs."""
        if running.started is not None:
            try:
                return running.started.result()
            except Exception as error:  # noqa: BLE001  as in `_begin`
                logger.debug("a batch failed and is tried one by one: %s", error)
        return [self._alone(waiting) for waiting in running.batch]

    def _alone(self, waiting: _Waiting) -> Times | None:
        try:
            return aligned(self._model, [waiting.item])[0]
        except Exception:
            logger.exception("the aligner failed a request")
            return None


def load(spec: AlignerSpec) -> tuple[Model, AlignerInfo, float]:
    """The model that the spec names, and the seconds of audio that fit at once.

    Raises CheckpointError, ValueError, RuntimeError.
    """
    import torch

    from predictor.align.model import Aligner
    from predictor.model.precision import choose_precision
    from predictor.model.quantized import check_quantized, quantizer

    if spec.num_threads is not None:
        torch.set_num_threads(spec.num_threads)
    device = torch.device(spec.device)
    if device.type == "cuda":
        from predictor.model.cuda.kernel_cache import use_kernels

        torch.cuda.set_device(device.index or 0)
        major, minor = torch.cuda.get_device_capability(device)
        use_kernels(10 * major + minor)
    chosen = choose_precision(spec.precision, device)
    quantize_part = quantizer(chosen.name, device) if chosen.is_quantized else None
    model = Aligner(
        Path(spec.folder), device=device, dtype=chosen.dtype, quantize_part=quantize_part
    )
    if chosen.is_quantized:
        check_quantized(model.model, chosen.name)
    max_batch_s = model.warm_up(spec.max_batch_s) if device.type == "cuda" else spec.max_batch_s
    return model, AlignerInfo(model.languages, model.max_audio_s), max_batch_s


def main() -> None:
    """`python -m predictor.align.worker PARENT_FD LISTENER_FD`, started by AlignerProcess."""
    parent, listener = (socket.socket(fileno=int(fd)) for fd in sys.argv[1:3])
    with parent, listener:
        line = parent.recv(MAX_MESSAGE_BYTES)
        if not line:
            return
        spec = spec_from_json(line)
        configure_logging(spec.log_format, spec.log_level)
        try:
            model, info, max_batch_s = load(spec)
        except Exception as error:  # noqa: BLE001  raised where it is waited for
            parent.send(str(error).encode()[:MAX_MESSAGE_BYTES] or b"no reason given")
            return
        parent.send(READY)
        desk = Desk(
            listener,
            parent,
            model,
            info,
            max_batch_s=max_batch_s,
            max_waiting=spec.max_waiting,
            gather_s=spec.gather_s,
        )
        desk.run()


if __name__ == "__main__":
    main()
