"""Continuous batching: requests come and go between the steps of one thread that owns the device.

The loop is schedule, run, emit. Whatever arrives meanwhile waits in the scheduler, under a lock
that is never held while the device works. The core knows no event loop and no socket: what a step
gave goes to the `Receive` that came with the request, one call a step for all that share it.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from asyncio import AbstractEventLoop
from collections import defaultdict
from collections.abc import Callable

from predictor.engine.kept import KeptSequences
from predictor.engine.options import EngineOptions, EngineStats, StepStats
from predictor.engine.preparation import Preparation
from predictor.engine.protocol import Emission, Receive, Runner, StepOutput
from predictor.engine.scheduler import Scheduler, Step
from predictor.engine.sequence import Limits, Sequence
from predictor.engine.tally import Tally
from predictor.errors import AsrError, InternalError, NotReady
from predictor.processes import end_before_exit
from predictor.types import EngineRequest, ExtendRequest

logger = logging.getLogger(__name__)

Delivery = tuple[Receive, Emission]
SHUTTING_DOWN = "the engine is shutting down"
HAS_FAILED = "the engine has failed"


class EngineCore:
    """Runs requests on a Runner, in a thread of its own; any thread may call it."""

    def __init__(
        self,
        runner: Runner,
        options: EngineOptions,
        on_step: Callable[[StepStats], None] | None = None,
        *,
        device: str = "cpu",
    ) -> None:
        """`on_step` is called in the engine's thread after each step and must be quick.

        `device` is what figures and metrics call the runner's.
        """
        self.device = device
        self._runner = runner
        self._options = options
        self._on_step = on_step
        self._scheduler = Scheduler(options, runner.limits, runner.num_slots, runner.page_size)
        self._tally = Tally(runner.page_size.tokens)
        self._kept = KeptSequences(options, runner.limits)
        self._receivers: dict[str, Receive] = {}
        self._changed = threading.Condition()  # guards all of the above and the flags below
        self._thread: threading.Thread | None = None
        self._call_off: Callable[[], None] = lambda: None  # waiting for it at the process's end
        self._ending = False  # stop() was called
        self._dead = False  # the device is beyond use
        self._step_began_s: float | None = None  # None = waiting for work
        self._num_prefills = 0  # steps since the start
        self._preparation = Preparation(runner)

    def start(self) -> None:
        """Start the thread; once only."""
        if self._thread is not None:
            raise RuntimeError("the engine was started before")
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        self._thread.start()
        self._call_off = end_before_exit(self._thread, self._end)

    def read_in(self, loop: AbstractEventLoop) -> None:
        """There is nothing to read: tokens come from the thread here."""

    def stop(self, timeout_s: float = 10.0) -> None:
        """End the thread after its current step; requests in flight get NotReady."""
        self._end()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                logger.error("the engine's step did not end within %.1f s", timeout_s)
            else:
                self._call_off()
                self._call_off = lambda: None  # it holds this core, and so the device's memory
        self._fail_all(lambda _: NotReady(SHUTTING_DOWN))

    def _end(self) -> None:
        with self._changed:
            self._ending = True
            self._changed.notify_all()

    def is_alive(self) -> bool:
        """The loop is waiting for work, or its step began less than `stall_timeout_s` ago."""
        thread, began_s = self._thread, self._step_began_s
        if thread is None or not thread.is_alive() or self._dead:
            return False
        return began_s is None or time.monotonic() - began_s < self._options.stall_timeout_s

    def has_failed(self) -> bool:
        """Whether the device is beyond use."""
        return self._dead

    def is_serving(self) -> bool:
        """Whether a request would be taken now."""
        return self.is_alive() and not self._ending

    @property
    def limits(self) -> Limits:
        """What any request must fit in."""
        return self._runner.limits

    def stats(self) -> EngineStats:
        """Plain figures of this moment."""
        with self._changed:
            num_unprepared = int(not self._preparation.is_done)
            return self._tally.added_to(self._scheduler.stats(), num_unprepared)

    def submit(self, request: EngineRequest, receive: Receive) -> None:
        """Queue a request; what comes of it goes to `receive`, from the engine's thread.

        Raises InvalidInput or NotReady at once.
        """
        with self._changed:
            self._check_open()
            self._scheduler.add(request)
            self._receivers[request.request_id] = receive
            self._changed.notify_all()

    def extend(self, request: ExtendRequest, receive: Receive) -> None:
        """Queue one step of a kept sequence, which its first step makes: new audio, then the
        answer to the whole utterance from its start. As `submit`, and Overloaded when too much is
        kept. A step that is refused, or aborted, leaves what was heard before it in place; an
        aborted one's samples count too.
        """
        with self._changed:
            self._check_open()
            self._kept.extend(request, self._scheduler)
            self._receivers[request.request_id] = receive
            self._changed.notify_all()

    def truncate(self, sequence_id: str, num_samples: int) -> None:
        """Forget what a kept sequence heard behind its first `num_samples` samples; the next step
        goes on from there. Raises InvalidInput while a step of it is in flight."""
        with self._changed:
            self._kept.truncate(sequence_id, num_samples, self._scheduler)

    def close(self, sequence_id: str) -> None:
        """Forget a kept sequence; a step of it that is under way is aborted."""
        with self._changed:
            request_id = self._kept.close(sequence_id, self._scheduler)
        if request_id is not None:
            self.abort(request_id)

    def abort(self, request_id: str) -> None:
        """End a request with finish "abort" and free its place; unknown ids are ignored."""
        with self._changed:
            sequence = self._scheduler.abort(request_id)
            receive = self._receivers.pop(request_id, None)
            self._changed.notify_all()
        if sequence is not None and receive is not None:
            self._deliver([(receive, (request_id, sequence.abort_chunk()))])

    def _check_open(self) -> None:
        if self._ending or self._dead:
            raise NotReady(SHUTTING_DOWN if self._ending else HAS_FAILED)

    def _loop(self) -> None:
        try:
            with self._runner.in_thread():
                while (step := self._next_step()) is not None:
                    self._run(step)
                    self._preparation.between_steps()
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
                    due_in_s = self._preparation.due_in_s()
                    if due_in_s == 0:
                        break
                    self._changed.wait(due_in_s)
                else:
                    return None
            self._step_began_s = time.monotonic()  # a device can hang in there too
            self._preparation.go_on()

    def _run(self, step: Step) -> None:
        self._step_began_s = began_s = time.monotonic()
        self._preparation.interrupt()
        run = self._runner.decode
        if step.phase == "prefill":
            run = self._runner.prefill
            self._num_prefills += 1
            for sequence in step.sequences:
                sequence.begins(began_s, self._num_prefills, len(step.sequences))
        try:
            output = run(step.sequences)
        except Exception:
            # Whatever went wrong in there, the other sequences and the thread go on.
            logger.exception("a %s step of %d failed", step.phase, len(step.sequences))
            self._run_failed(step)
            return
        seconds = time.monotonic() - began_s
        with self._changed:
            self._tally.worked(seconds, step.sequences)
        self._deliver(self._commit(step, output))
        self._observe(step, output, began_s, seconds)

    def _run_failed(self, step: Step) -> None:
        """Fail as little as possible: one request of a prefill may have spoilt it for the rest."""
        if not self._recovered():
            self._die()
        elif step.phase == "prefill" and len(step.sequences) > 1:
            with self._changed:
                self._scheduler.begin_again(step.sequences)
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

    def _commit(self, step: Step, output: StepOutput) -> list[Delivery]:
        """Take the tokens of a step over into its sequences; what to tell whom."""
        deliveries: list[Delivery] = []
        broken: list[int] = []
        with self._changed:
            if self._ending:
                return []
            for sequence, found in output.prefilled.items():
                if not sequence.aborted:
                    self._tally.prefilled(sequence, found)
                    sequence.prefilled(found)
            results = zip(step.sequences, output.tokens, output.logprobs, strict=True)
            for sequence, tokens, logprobs in results:
                if any(math.isnan(logprob) for logprob in logprobs):
                    broken += sequence.pages
                    deliveries += self._failed(sequence)
                elif tokens and not sequence.aborted:
                    chunk = sequence.extend(tokens, logprobs)
                    request_id = sequence.request.request_id
                    if (due := sequence.due(chunk)) is not None:
                        deliveries.append((self._receivers[request_id], (request_id, due)))
                    if chunk.finish is not None:
                        self._tally.finished(sequence)
                        self._scheduler.finish(sequence)
                        del self._receivers[request_id]
        if broken:
            logger.error("%d pages gave probabilities that are not numbers", len(broken))
            self._runner.scrub(broken)
        return deliveries

    def _failed(self, sequence: Sequence) -> list[Delivery]:
        """End a running sequence with InternalError; the lock is held."""
        if self._ending:  # stop() tells everyone
            return []
        request_id = sequence.request.request_id
        receive = self._receivers.pop(request_id, None)
        self._scheduler.finish(sequence, failed=not sequence.aborted)
        return [] if receive is None else [(receive, (request_id, InternalError(request_id)))]

    def _die(self) -> None:
        """Nothing can run any more: `is_alive` says so, and nobody is left waiting."""
        with self._changed:
            self._dead = True
        self._fail_all(InternalError)

    def _fail_all(self, error: Callable[[str], AsrError]) -> None:
        with self._changed:
            dropped = [s.request.request_id for s in self._scheduler.drop_all()]
            receivers = [(self._receivers.pop(request_id), request_id) for request_id in dropped]
        self._deliver([(receive, (name, error(name))) for receive, name in receivers])

    def _deliver(self, deliveries: list[Delivery]) -> None:
        """Hand out what is new, with one call for each receiver."""
        by_receiver: dict[Receive, list[Emission]] = defaultdict(list)
        for receive, emission in deliveries:
            by_receiver[receive].append(emission)
        for receive, emissions in by_receiver.items():
            receive(emissions)

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
