"""Journals in an object store, for the pod that takes a lost one's place.

An object cannot be appended to, so a journal lies there in parts: what was written since the part
before. Parts are named by the time, so that sorted by name they are the journal.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

from pipelines.lib.errors import ManifestError
from pipelines.lib.storage import object_store

PUSH_S = 15.0  # what a lost pod has answered since the last push is asked for again
WHAT = "journals "


class StoredJournal:
    """A journal on this disk and its parts below a URL: fetched first, pushed while it is open.

    A store that is away while pushing is no failure: the next push takes everything along.
    Entering raises ManifestError when the parts that are there cannot be fetched.
    """

    def __init__(self, url: str, path: Path, *, every_s: float = PUSH_S) -> None:
        self._url = url.rstrip("/")
        self._path = path
        self._every_s = every_s
        self._num_pushed = 0  # bytes
        self._stopped = threading.Event()
        self._pusher: threading.Thread | None = None

    def __enter__(self) -> Self:
        if not self._path.exists():  # else this pod's own, which is newer
            self._fetch()
        self._stopped.clear()
        self._pusher = threading.Thread(target=self._push_while_open, daemon=True)
        self._pusher.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        if self._pusher is not None:
            self._pusher.join()
        self._push()

    def _fetch(self) -> None:
        with object_store(self._url, WHAT, "read") as (store, root):
            store.invalidate_cache()
            parts = [store.cat_file(name) for name in sorted(store.find(root))]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        whole = b"".join(parts)
        if whole:
            self._path.write_bytes(whole)
        self._num_pushed = len(whole)

    def _push_while_open(self) -> None:
        while not self._stopped.wait(self._every_s):
            self._push()

    def _push(self) -> None:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._num_pushed)
            new = file.read()
        new = new[: new.rfind(b"\n") + 1]  # a line that is being written belongs to the next part
        if not new:
            return
        name = f"{time.time_ns():020d}-{uuid4().hex[:8]}.jsonl"
        try:
            with object_store(self._url, WHAT, "written") as (store, root):
                store.pipe_file(f"{root}/{name}", new)
        except ManifestError as error:
            logging.getLogger("pipelines.evaluation").warning("%s", error)
        else:
            self._num_pushed += len(new)


def check_store(url: str) -> None:
    """ManifestError when nothing can be written below the URL."""
    with object_store(url.rstrip("/"), WHAT, "written") as (store, root):
        probe = f"{root}/{uuid4().hex}"
        store.pipe_file(probe, b"tried")
        store.rm_file(probe)
