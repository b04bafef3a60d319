"""A checkpoint read in a thread of its own, begun before the web's packages are imported.

Where the engine has a process of its own, that process imports torch and reads the weights, and the
thread here reads the tokenizer and waits.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from predictor.engine import (
    CoreProcess,
    EngineClient,
    RemoteCore,
    StepStats,
    build_engine,
)
from predictor.model.checkpoint.identity import Identity, identify
from predictor.model.checkpoint.source import resolve_model
from predictor.processes import end_before_exit
from predictor.service.engines import (
    devices,
    engine_options,
    engine_specs,
    has_cuda,
    has_own_process,
)
from predictor.settings.fields import Settings
from predictor.startup import import_before_loading, process_age_s, sharing_the_gil
from predictor.text.tokenizer import TextTokenizer

logger = logging.getLogger(__name__)

Observer = Callable[[StepStats], None]


@dataclass(frozen=True, slots=True)
class MadeEngine:
    """An engine with its weights loaded, not started, and where it runs."""

    client: EngineClient
    device: str
    dtype: str


Lost = Callable[[], None]  # the engine has gone for good
MakeEngine = Callable[[Settings, Path, Observer, Lost], MadeEngine]


def make_engine(settings: Settings, folder: Path, on_step: Observer, on_lost: Lost) -> MadeEngine:
    """Load the checkpoint in `folder` as the settings say, here or in processes of their own.

    Raises CheckpointError, ValueError, RuntimeError.
    """
    if has_own_process(settings):  # then nothing here may touch the device
        specs = engine_specs(settings, folder)
        processes = [CoreProcess(on_lost=on_lost) for _ in specs]
        for process, spec in zip(processes, specs, strict=True):
            process.spawn(spec)
        for process in processes:
            process.wait_loaded()
        options = engine_options(settings)
        return _made([RemoteCore(p.address, options, on_step, p) for p in processes])
    import torch

    from predictor.engine.start.build import choose_device
    from predictor.model.precision import choose_precision

    if settings.num_threads is not None:
        torch.set_num_threads(settings.num_threads)
    device = choose_device(devices(settings)[0])
    precision = choose_precision(settings.dtype, device)
    core = build_engine(folder, device, precision.name, engine_options(settings), on_step)
    return MadeEngine(EngineClient([core]), core.device, precision.name)


def join_engines(addresses: Sequence[Path]) -> MakeEngine:
    """Engines that somebody else started and looks after, reached at their addresses."""

    def join(settings: Settings, folder: Path, on_step: Observer, on_lost: Lost) -> MadeEngine:
        options = engine_options(settings)
        return _made([RemoteCore(address, options, on_step) for address in addresses])

    return join


def _made(cores: Sequence[RemoteCore]) -> MadeEngine:
    device = ",".join(core.device for core in cores)
    return MadeEngine(EngineClient(cores), device, cores[0].loaded.dtype)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was read, and the engine that it was read for."""

    folder: Path
    identity: Identity
    tokenizer: TextTokenizer
    made: MadeEngine


class Loading:
    """A checkpoint on its way into memory. The thread ends by itself and cannot be stopped."""

    def __init__(
        self,
        settings: Settings,
        make_engine: MakeEngine = make_engine,
        *,
        has_real_weights: bool = True,
    ) -> None:
        """`has_real_weights` is false for benchmarks, whose weights come from nowhere: nothing is
        expected of what they say."""
        self.began_s = time.monotonic()
        self.phases = {"process": process_age_s()}  # seconds that each phase took
        self._settings = settings
        self._make_engine = make_engine
        self.has_real_weights = has_real_weights
        self._observer: Observer | None = None  # nobody yet: the metrics are still being imported
        self._result: Future[Checkpoint] = Future()
        self.lost: Future[None] = Future()  # done when the engine has gone for good
        self._with_engine = not has_own_process(settings)
        import_before_loading(settings, with_engine=self._with_engine, on_cuda=has_cuda())
        thread = threading.Thread(target=self._run, name="loading", daemon=True)
        self._call_off = end_before_exit(thread)
        thread.start()

    def done(self) -> bool:
        """Whether `result` would return or raise at once."""
        return self._result.done()

    def result(self, observer: Observer | None = None) -> Checkpoint:
        """Wait for it. Raises what kept the checkpoint from being served.

        `observer` hears of the engine's steps from now on.
        """
        self._observer = observer
        return self._result.result()

    def _observe(self, step: StepStats) -> None:
        if self._observer is not None:
            self._observer(step)

    def _run(self) -> None:
        try:
            with sharing_the_gil(with_engine=self._with_engine):
                checkpoint = self._load()
        except BaseException as error:  # noqa: BLE001  raised where it is waited for
            self._result.set_exception(error)
        else:
            self._result.set_result(checkpoint)
        finally:
            self._call_off()

    def _load(self) -> Checkpoint:
        logger.info("loading")
        settings = self._settings
        folder = resolve_model(
            model_dir=settings.model_dir,
            model_id=settings.model_id,
            revision=settings.model_revision,
        )
        found_s = time.monotonic()
        self.phases["download"] = found_s - self.began_s
        with ThreadPoolExecutor(2, "checkpoint") as beside:
            tokenizer = beside.submit(TextTokenizer.load, folder)
            identity = beside.submit(
                identify, folder, model_id=settings.model_id, revision=settings.model_revision
            )
            made = self._make_engine(
                settings, folder, self._observe, lambda: self.lost.set_result(None)
            )
            self.phases["engine"] = time.monotonic() - found_s
        try:
            found = identity.result()
        except BaseException:
            made.client.stop()
            raise
        return Checkpoint(folder, found, tokenizer.result(), made)
