"""Continuous batching: requests come and go between the steps of one thread that owns the device.

The loop is schedule, run, hand out. Whatever arrives meanwhile waits in the scheduler, under a
lock that is never held while the device works.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable

from predictor.engine.kept import KeptSequences
from predictor.engine.options import EngineOptions, EngineStats, StepStats
from predictor.engine.protocol import Runner, StepOutput
from predictor.engine.scheduler import Scheduler, Step
from predictor.engine.sequence import Limits, Sequence
from predictor.engine.speed import Speed
from predictor.engine.stream import Delivery, Outlet, Sink, TokenStream
from predictor.errors import AsrError, InternalError, NotReady
from predictor.types import EngineRequest, ExtendRequest

logger = logging.getLogger(__name__)

_SHUTTING_DOWN = "the engine is shutting down"


class Engine:
    """Runs requests on a Runner. `submit` belongs to event loops, everything else to any thread."""

    def __init__(
        self,
        runner: Runner,
        options: EngineOptions,
        on_step: Callable[[StepStats], None] | None = None,
    ) -> None:
        """`on_step` is called in the engine's thread after each step and must be quick."""
        self._runner = runner
        self._options = options
        self._on_step = on_step
        self._scheduler = Scheduler(options, runner.limits, runner.num_slots)
        self._kept = KeptSequences(options, runner.limits)
        self._streams: dict[str, Sink] = {}
        self._changed = threading.Condition()  # guards all of the above and the flags below
        self._thread: threading.Thread | None = None
        self._ending = False  # stop() was called
        self._dead = False  # the device is beyond use
        self._prepared = False  # the runner has nothing left to do while it is idle
        self._step_began_s: float | None = None  # None = waiting for work
        self._speed = Speed()

    def start(self) -> None:
        """Start the thread; once only."""
        if self._thread is not None:
            raise RuntimeError("the engine was started before")
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """End the thread after its current step; streams in flight raise NotReady."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                logger.error("the engine's step did not end within %.1f s", timeout_s)
        self._fail_all(lambda _: NotReady(_SHUTTING_DOWN))

    def is_alive(self) -> bool:
        """The loop is waiting for work, or its step began less than `stall_timeout_s` ago."""
        thread, began_s = self._thread, self._step_began_s
        if thread is None or not thread.is_alive() or self._dead:
            return False
        return began_s is None or time.monotonic() - began_s < self._options.stall_timeout_s

    @property
    def limits(self) -> Limits:
        """What any request must fit in."""
        return self._runner.limits

    def stats(self) -> EngineStats:
        """Plain figures of this moment."""
        with self._changed:
            return self._scheduler.stats()

    def submit(self, request: EngineRequest) -> TokenStream:
        """Queue a request from the event loop's thread; its tokens come through the stream.

        Raises InvalidInput, Overloaded or NotReady at once.
        """
        stream = TokenStream(request.request_id, self.abort)
        self.submit_to(stream, request)
        return stream

    def submit_to(self, sink: Sink, request: EngineRequest) -> None:
        """Queue a request whose tokens go to `sink`. Raises like `submit`."""
        with self._changed:
            self._check_open()
            self._scheduler.add(request, audio_s_per_s=self._speed.audio_s_per_s)
            self._streams[request.request_id] = sink
            self._changed.notify_all()

    def extend(self, request: ExtendRequest) -> TokenStream:
        """Queue one step of a kept sequence, which its first step makes: new audio, then the
        answer to the whole utterance from its start. As `submit`. A step that is refused, or
        aborted, leaves what was heard before it in place; an aborted one's samples count too.
        """
        stream = TokenStream(request.request_id, self.abort)
        self.extend_to(stream, request)
        return stream

    def extend_to(self, sink: Sink, request: ExtendRequest) -> None:
        """Queue a step whose tokens go to `sink`. Raises like `extend`."""
        with self._changed:
            self._check_open()
            self._kept.extend(request, self._scheduler, audio_s_per_s=self._speed.audio_s_per_s)
            self._streams[request.request_id] = sink
            self._changed.notify_all()

    def close(self, sequence_id: str) -> None:
        """Forget a kept sequence; a step of it that is under way is aborted."""
        with self._changed:
            request_id = self._kept.close(sequence_id)
        if request_id is not None:
            self.abort(request_id)

    def abort(self, request_id: str) -> None:
        """End a request with finish "abort" and free its place; unknown ids are ignored."""
        with self._changed:
            sequence = self._scheduler.abort(request_id)
            stream = self._streams.pop(request_id, None)
            self._changed.notify_all()
        if sequence is not None and stream is not None:
            self._deliver([(stream, sequence.abort_chunk())])

    def _check_open(self) -> None:
        if self._ending or self._dead:
            raise NotReady(_SHUTTING_DOWN if self._ending else "the engine has failed")

    def _loop(self) -> None:
        try:
            while (step := self._next_step()) is not None:
                self._run(step)
                del step  # or its samples would be kept until there is another one
        finally:
            if not self._ending:
                self._die()

    def _next_step(self) -> Step | None:
        """Wait for work, and prepare for it meanwhile; None when the engine ends."""
        while True:
            with self._changed:
                while not (self._ending or self._dead):
                    self._scheduler.release_aborted()
                    step = self._scheduler.schedule()
                    if step is not None:
                        return step
                    self._step_began_s = None
                    if not self._prepared:
                        break
                    self._changed.wait()
                else:
                    return None
            self._prepare()

    def _prepare(self) -> None:
        """One piece of preparation: nobody who arrives meanwhile waits for more than that."""
        try:
            self._prepared = not self._runner.idle()
        except Exception:
            logger.exception("preparing for later steps failed")
            self._prepared = True

    def _run(self, step: Step) -> None:
        self._step_began_s = began_s = time.monotonic()
        self._prepared = False
        run = self._runner.prefill if step.phase == "prefill" else self._runner.decode
        try:
            output = run(step.sequences)
        except Exception:
            # Whatever went wrong in there, the other sequences and the thread go on.
            logger.exception("a %s step of %d failed", step.phase, len(step.sequences))
            self._run_failed(step)
            return
        seconds = time.monotonic() - began_s
        self._deliver(self._commit(step, output, seconds))
        self._observe(step, output, began_s, seconds)

    def _run_failed(self, step: Step) -> None:
        """Fail as little as possible: one request of a prefill may have spoilt it for the rest."""
        if not self._recovered():
            self._die()
        elif step.phase == "prefill" and len(step.sequences) > 1:
            for sequence in step.sequences:
                if not self._dead:
                    self._run(Step("prefill", (sequence,)))
        else:
            with self._changed:
                deliveries = [d for s in step.sequences for d in self._failed(s)]
            self._deliver(deliveries)

    def _recovered(self) -> bool:
        try:
            return self._runner.recover()
        except Exception:
            logger.exception("the device did not recover")
            return False

    def _commit(self, step: Step, output: StepOutput, seconds: float) -> list[Delivery]:
        """Take the tokens of a step over into its sequences; what to tell whom."""
        deliveries: list[Delivery] = []
        broken: list[int] = []
        audio_s = 0.0
        with self._changed:
            if self._ending:
                return []
            for sequence, found in output.prefilled.items():
                if not sequence.aborted:
                    sequence.prefilled(found)
            results = zip(step.sequences, output.tokens, output.logprobs, strict=True)
            for sequence, tokens, logprobs in results:
                if any(math.isnan(logprob) for logprob in logprobs):
                    broken.append(sequence.slot)
                    deliveries += self._failed(sequence)
                elif tokens and not sequence.aborted:
                    chunk = sequence.extend(tokens, logprobs)
                    if (due := sequence.due(chunk)) is not None:
                        deliveries.append((self._streams[sequence.request.request_id], due))
                    if chunk.finish is not None:
                        audio_s += sequence.audio_s
                        self._scheduler.finish(sequence)
                        del self._streams[sequence.request.request_id]
            self._speed.add(audio_s=audio_s, seconds=seconds)
        if broken:
            logger.error("%d sequences gave probabilities that are not numbers", len(broken))
            self._runner.scrub(broken)
        return deliveries

    def _failed(self, sequence: Sequence) -> list[Delivery]:
        """End a running sequence with InternalError; the lock is held."""
        request_id = sequence.request.request_id
        stream = self._streams.pop(request_id, None)
        if self._ending:
            return []
        self._scheduler.finish(sequence, failed=not sequence.aborted)
        return [] if stream is None else [(stream, InternalError(request_id))]

    def _die(self) -> None:
        """Nothing can run any more: `is_alive` says so, and nobody is left waiting."""
        with self._changed:
            self._dead = True
        self._fail_all(InternalError)

    def _fail_all(self, error: Callable[[str], AsrError]) -> None:
        with self._changed:
            dropped = [s.request.request_id for s in self._scheduler.drop_all()]
            streams = [(self._streams.pop(request_id), request_id) for request_id in dropped]
        self._deliver([(stream, error(request_id)) for stream, request_id in streams])

    def _deliver(self, deliveries: list[Delivery]) -> None:
        """Hand items to their outlets, with one call for each."""
        by_outlet: dict[Outlet, list[Delivery]] = defaultdict(list)
        for delivery in deliveries:
            by_outlet[delivery[0].outlet].append(delivery)
        for outlet, items in by_outlet.items():
            try:
                outlet.hand_over(items)
            except RuntimeError:  # the loop is closed: nobody is left to listen
                for stream, _ in items:
                    self._drop(stream.request_id)

    def _drop(self, request_id: str) -> None:
        with self._changed:
            self._scheduler.abort(request_id)
            self._streams.pop(request_id, None)

    def _observe(self, step: Step, output: StepOutput, began_s: float, seconds: float) -> None:
        if self._on_step is None:
            return
        is_prefill = step.phase == "prefill"
        now = self.stats()
        stats = StepStats(
            phase=step.phase,
            num_seqs=len(step.sequences),
            num_prompt_tokens=sum(s.num_prompt_tokens for s in step.sequences) if is_prefill else 0,
            num_new_tokens=sum(len(tokens) for tokens in output.tokens),
            audio_s=sum(s.audio_s for s in step.sequences) if is_prefill else 0.0,
            seconds=seconds,
            num_waiting=now.num_waiting,
            num_running=now.num_running,
            queue_s=tuple(began_s - s.created_s for s in step.sequences) if is_prefill else (),
            device_s=output.device_s,
        )
        try:
            self._on_step(stats)
        except Exception:
            logger.exception("the engine's observer failed")
