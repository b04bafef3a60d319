"""A device that hangs must not cost what was measured: it is told, and the process ends."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

OUT_OF_TIME = 3


@contextmanager
def watched(last_s: float, tell: Callable[[], None]) -> Iterator[None]:
    """Leave the process with status 3, after `tell`, if what is inside goes on beyond `last_s` of
    `perf_counter`.

    The thread has ended when this returns. Woken while the interpreter ends, it would be the last
    to hold what `tell` refers to; freeing torch's objects lets go of the GIL, and whoever asks for
    it then is ended by unwinding its stack: the process aborts with status 134.
    """
    ended = threading.Event()

    def watch() -> None:
        if not ended.wait(max(0.0, last_s - time.perf_counter())):
            print("out of time: a row hangs or runs long", file=sys.stderr)
            tell()
            sys.stdout.flush()
            os._exit(OUT_OF_TIME)

    thread = threading.Thread(target=watch, name="watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
