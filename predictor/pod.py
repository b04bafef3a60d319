"""A pod of several processes: engines, one for each device, and fronts, all before all engines.

The process that runs this starts them, takes their signals, replaces a front that died, and ends
all of them in order. It imports nothing heavy and serves nothing itself.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from predictor.align.process import AlignerProcess
from predictor.book import Book
from predictor.engine import CoreProcess, EngineSpec
from predictor.engine.link.process import WORKER
from predictor.logs import toggle_level
from predictor.model.checkpoint.source import resolve_model
from predictor.ports import reserve
from predictor.processes import ChildProcess, connected_child, environment
from predictor.service.aligner import aligner_spec
from predictor.service.engines import devices, engine_specs, num_fronts
from predictor.settings.fields import Settings
from predictor.settings.listening import listen_problem
from predictor.settings.transfer import to_json

logger = logging.getLogger(__name__)

_EXIT_S: Final = 15.0  # beyond the time that a front takes to end in order
_MIN_LIFE_S: Final = 10.0  # a front that lives shorter, so many times in a row, helps nobody
_MAX_SHORT_LIVES: Final = 5


@dataclass(frozen=True, slots=True)
class Parts:
    """What a pod is made of; others are for benchmarks, whose weights come from nowhere."""

    front: str = "predictor.front"  # the module that a front runs
    engine: str = WORKER
    specs: Callable[[Settings, Path], list[EngineSpec]] = engine_specs


class Pod:
    """Serves until told to stop."""

    def __init__(self, settings: Settings, parts: Parts = Parts()) -> None:
        """Raises OSError when a port is taken."""
        self._parts = parts
        self._open = ExitStack()
        self._settings = self._with_ports(settings)
        folder = self._open.enter_context(tempfile.TemporaryDirectory(prefix="asr-"))
        self._folder = Path(folder)  # only we may look into it
        (self._folder / "metrics").mkdir()
        self._num_fronts = num_fronts(settings)
        self._book = Book(self._folder / "book", self._num_fronts, 0)
        self._cores = [
            CoreProcess(
                address=self._folder / f"engine{i}", on_lost=self._lose, worker=parts.engine
            )
            for i in range(len(devices(settings)))
        ]
        self._aligner = AlignerProcess(self._folder / "aligner") if settings.has_aligner else None
        self._fronts: dict[int, ChildProcess] = {}
        self._listening: set[int] = set()  # fronts that take signals: before, one would end them
        self._num_ready = 0
        self._listens = False
        self._ending = threading.Event()

    def _with_ports(self, settings: Settings) -> Settings:
        """The same settings, with ports that are ours."""
        names = ["http_port", *(["grpc_port"] if settings.enable_grpc else [])]
        names += [] if settings.admin_port is None else ["admin_port"]
        found = {}
        for name in names:
            port = getattr(settings, name)
            try:
                reserved = self._open.enter_context(reserve(settings.host, port))
            except OSError as error:
                raise OSError(listen_problem(error, settings.host, name, port)) from error
            found[name] = reserved.getsockname()[1]
        return replace(settings, **found)

    @property
    def engines(self) -> tuple[Path, ...]:
        """Where each engine's process listens."""
        return tuple(core.address for core in self._cores)

    def run(self) -> None:
        """Raises what kept an engine from loading, or what the pod cannot go on without."""
        with self._open:
            asyncio.run(self._run())

    def _lose(self) -> None:
        """An engine has gone for good; called from its thread."""
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(
                self._fail, RuntimeError("an engine has gone and did not come back")
            )

    def _fail(self, error: Exception) -> None:
        if not self._failure.done():
            self._failure.set_exception(error)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._failure: asyncio.Future[None] = self._loop.create_future()
        stop = asyncio.Event()
        for signum in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(signum, stop.set)
        self._loop.add_signal_handler(signal.SIGUSR1, self._change_level)
        for index in range(self._num_fronts):
            self._book.starts(index)
        fronts = [asyncio.create_task(self._keep(i)) for i in range(self._num_fronts)]
        loading = asyncio.create_task(asyncio.to_thread(self._load))
        stopping = asyncio.create_task(stop.wait())
        try:
            first: set[asyncio.Future[Any]] = {loading, stopping, self._failure}
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                loading.result()
                rest: set[asyncio.Future[Any]] = {stopping, self._failure}
                await asyncio.wait(rest, return_when=asyncio.FIRST_COMPLETED)
            if self._failure.done():
                self._failure.result()
        finally:
            await self._end(fronts)
            _, pending = await asyncio.wait({loading}, timeout=_EXIT_S)
            if pending:  # a download goes on, which cannot be stopped and is worth nothing now
                self._open.close()
                os._exit(0)

    def _change_level(self) -> None:
        """Here and in all fronts; engines and the aligner follow by themselves."""
        toggle_level(self._settings.log_level)
        for index in self._listening:
            self._fronts[index].signal(signal.SIGUSR1)

    def _load(self) -> None:
        settings = self._settings
        folder = resolve_model(
            model_dir=settings.model_dir,
            model_id=settings.model_id,
            revision=settings.model_revision,
        )
        specs = self._parts.specs(settings, folder)
        if self._ending.is_set():
            return
        for core, spec in zip(self._cores, specs, strict=True):
            core.spawn(spec)
        if self._aligner is not None:
            self._aligner.spawn(aligner_spec(settings))
        for core in self._cores:
            core.wait_loaded()
        if self._aligner is not None:
            self._aligner.wait_loaded()

    async def _keep(self, index: int) -> None:
        """One front, and whoever takes its place."""
        is_late, short_lives = False, 0
        while not self._ending.is_set():
            began_s = time.monotonic()
            code = await self._live(index, is_late=is_late)
            self._listening.discard(index)
            self._book.clear(index)
            self._forget_gauges(self._fronts.pop(index).pid)
            if self._ending.is_set():
                return
            logger.error("a front ended with %d", code)
            short_lives = short_lives + 1 if time.monotonic() - began_s < _MIN_LIFE_S else 0
            if short_lives == _MAX_SHORT_LIVES:
                self._fail(RuntimeError(f"front {index} ended again and again"))
                return
            is_late = True
            self._book.replaced(index)

    async def _live(self, index: int, *, is_late: bool) -> int:
        """Start a front and hear it until its end; its exit code."""
        more = {"PROMETHEUS_MULTIPROC_DIR": str(self._folder / "metrics")}
        front, ours = connected_child(self._parts.front, environment(**more))
        self._fronts[index] = front
        spec = {
            "index": index,
            "num_fronts": self._num_fronts,
            "folder": str(self._folder),
            "engines": [str(address) for address in self.engines],
            "is_late": is_late,
            "settings": to_json(self._settings),
        }
        reader, writer = await asyncio.open_connection(sock=ours)
        writer.write(json.dumps(spec).encode() + b"\n")
        try:
            while line := await reader.readline():
                self._hear(index, line.decode().strip())
        except ConnectionError:
            pass
        finally:
            writer.close()
        return await asyncio.to_thread(front.exit_code, _EXIT_S)

    def _hear(self, index: int, said: str) -> None:
        settings = self._settings
        if said == "listening":
            self._listening.add(index)
            if logging.getLogger().level != getattr(logging, settings.log_level.upper()):
                self._fronts[index].signal(signal.SIGUSR1)
        if said == "listening" and not self._listens:
            self._listens = True
            port = settings.grpc_port if settings.enable_grpc else None
            fields = {"http_port": settings.http_port, "grpc_port": port}
            logger.info("listening", extra={"fields": fields})
        elif said == "ready":
            self._num_ready += 1
            if self._num_ready == self._num_fronts:
                logger.info("ready")

    def _forget_gauges(self, pid: int) -> None:
        """What a dead front had in flight is in flight no more; what it counted stays."""
        for file in (self._folder / "metrics").glob(f"gauge_live*_{pid}.db"):
            file.unlink()

    async def _end(self, fronts: list[asyncio.Task[None]]) -> None:
        """Fronts first, each in the order that it would keep alone, then the engines."""
        logger.info("shutting down")
        self._ending.set()
        for front in self._fronts.values():
            front.ask_to_end()
        limit_s = self._settings.shutdown_delay_s + self._settings.shutdown_grace_s + _EXIT_S
        _, late = await asyncio.wait(fronts, timeout=limit_s)
        if late:
            logger.error("%d fronts did not end within %.0f s", len(late), limit_s)
            for front in self._fronts.values():
                front.kill()
            await asyncio.wait(late)
        stops: list[Callable[[], None]] = [core.stop for core in self._cores]
        if self._aligner is not None:
            stops.append(self._aligner.stop)
        await asyncio.gather(*map(asyncio.to_thread, stops))
        logger.info("stopped")
