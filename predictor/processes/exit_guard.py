"""Threads that may be inside torch must have ended when the interpreter ends.

CPython ends a daemon thread when it next asks for the GIL, by unwinding its stack. In a library of
C++ that is `terminate called without an active exception`: the process aborts with status 134.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Final

logger = logging.getLogger(__name__)

EXIT_S: Final = 10.0


def end_before_exit(
    thread: threading.Thread,
    ask_to_end: Callable[[], None] = lambda: None,
    timeout_s: float = EXIT_S,
) -> Callable[[], None]:
    """Wait for `thread` when the interpreter ends. If it does not end in time, the process leaves
    at once with status 1. What is returned calls this off, for a thread that has ended.
    """

    def wait() -> None:
        ask_to_end()
        thread.join(timeout_s)
        if thread.is_alive():
            logger.error("thread %s did not end within %.1f s", thread.name, timeout_s)
            logging.shutdown()
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(1)

    atexit.register(wait)
    return lambda: atexit.unregister(wait)
