"""The context that is made early: for CUDA devices only, and never an error of its own."""

from __future__ import annotations

import ctypes

import pytest

from predictor.engine import context
from predictor.engine.context import open_early


class Driver:
    """A driver that notes what it is asked for."""

    def __init__(self, result: int = 0) -> None:
        self.result = result
        self.calls: list[tuple[str, object]] = []

    def cuInit(self, flags: int) -> int:  # noqa: N802  the driver's name
        self.calls.append(("init", flags))
        return self.result

    def cuDeviceGet(self, handle: object, index: int) -> int:  # noqa: N802
        self.calls.append(("get", index))
        return self.result

    def cuDevicePrimaryCtxRetain(self, context: object, handle: object) -> int:  # noqa: N802
        self.calls.append(("retain", None))
        return self.result


@pytest.mark.parametrize(("device", "index"), [("auto", 0), ("cuda", 0), ("cuda:3", 3)])
def test_the_devices_context_is_retained(
    device: str, index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    thread = open_early(device)
    assert thread is not None
    thread.join()
    assert driver.calls == [("init", 0), ("get", index), ("retain", None)]


def test_a_driver_that_fails_is_asked_for_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(result=100)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    context._retain(0)
    assert driver.calls == [("init", 0)]


def test_no_driver_is_no_error_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    context._retain(0)


def test_a_cpu_needs_none() -> None:
    assert open_early("cpu") is None
