"""What all tests share: how long they took here the last time, and how httpx is used."""

from __future__ import annotations

import functools
import os
import signal
import ssl
import time
from typing import Any

import pytest

_KEY = "duration/seconds_by_number"
_BEGAN = pytest.StashKey[float]()
_SAID_ON = "TESTS_SAID_ON"  # a file descriptor


def pytest_configure() -> None:
    """Each client of httpx, and so each `httpx.get`, reads the machine's certificates: 70 ms of
    CPU, thousands of times. Here they are read once. And an answer may take more than httpx's 5 s,
    on a busy machine; so may an example of hypothesis, whose deadline is 0.2 s."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # its C++ would write between the dots
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # begun in a shell's background
        signal.signal(signal.SIGINT, signal.default_int_handler)  # some tests press Ctrl-C
    import hypothesis
    from httpx import _config as config
    from httpx._transports import default as transports

    patience = config.DEFAULT_TIMEOUT_CONFIG  # all default to it
    patience.connect = patience.read = patience.write = patience.pool = 300.0

    hypothesis.settings.register_profile("any machine", deadline=None)
    hypothesis.settings.load_profile("any machine")
    create = transports.create_ssl_context
    usual = functools.cache(lambda trust_env: create(True, None, trust_env))

    def shared(verify: Any = True, cert: Any = None, trust_env: bool = True) -> ssl.SSLContext:
        if verify is True and cert is None:
            return usual(trust_env)
        return create(verify, cert, trust_env)

    transports.create_ssl_context = shared


def pytest_collection_finish(session: pytest.Session) -> None:
    """Said before the first dot, with -q too."""
    config = session.config
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or config.option.collectonly or len(session.items) < 100:
        return
    session.stash[_BEGAN] = time.monotonic()
    cache = getattr(config, "cache", None)  # not there with -p no:cacheprovider
    before: dict[str, float] = (cache and cache.get(_KEY, {})) or {}
    number = len(session.items)
    nearest = min(before, key=lambda each: abs(int(each) - number), default=None)
    said = f"{number} tests"
    if nearest is not None and abs(int(nearest) - number) <= number / 4:
        minutes = before[nearest] * number / int(nearest) / 60
        said += f", about {max(1, round(minutes))} min by the last run here"
    else:
        said += ", never run here: make test takes 12 to 25 min on two cores"
    where = os.environ.get(_SAID_ON)
    if where is None:
        reporter.write_line(said)
    else:  # this one's output goes to a file meanwhile
        os.write(int(where), f"beside it {said}\n".encode())


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Remember it for the next time."""
    began_s, cache = session.stash.get(_BEGAN, None), getattr(session.config, "cache", None)
    if began_s is None or cache is None or session.shouldstop or session.shouldfail:
        return
    before: dict[str, float] = cache.get(_KEY, {})
    number = len(session.items)
    kept = {each: s for each, s in before.items() if abs(int(each) - number) > number / 4}
    kept[str(number)] = time.monotonic() - began_s
    cache.set(_KEY, kept)
