"""The context that is made early: for CUDA devices only, and never an error of its own."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import pytest

from predictor.engine.start.context import only_device, open_early


class Driver:
    """A driver that notes what it is asked for, with the numbers among the arguments."""

    def __init__(self, result: int = 0) -> None:
        self._result = result
        self.calls: list[tuple[object, ...]] = []

    def __getattr__(self, function: str) -> Callable[..., int]:
        def call(*arguments: object) -> int:
            self.calls.append((function, *(n for n in arguments if isinstance(n, int))))
            return self._result

        return call


@pytest.mark.parametrize(("device", "index"), [("auto", 0), ("cuda", 0), ("cuda:3", 3)])
def test_the_devices_context_is_retained(
    device: str, index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    thread = open_early(device)
    assert thread is not None
    thread.join()
    assert driver.calls == [
        ("cuInit", 0),
        ("cuDeviceGet", index),
        ("cuDevicePrimaryCtxRetain",),
    ]


def retain() -> None:
    """What fails in the thread fails the test."""
    thread = open_early("cuda")
    assert thread is not None
    thread.join()


def test_a_driver_that_fails_is_asked_for_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(result=100)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    retain()
    assert driver.calls == [("cuInit", 0)]


def test_no_driver_is_no_error_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    retain()


def test_a_cpu_needs_none() -> None:
    assert open_early("cpu") is None


@pytest.mark.parametrize(
    ("device", "visible", "name", "left"),
    [
        ("cuda:1", None, "cuda", "1"),
        ("cuda:0", "3,5", "cuda", "3"),
        ("cuda:1", "3,5", "cuda", "5"),
        ("cuda:1", "GPU-a,MIG-b", "cuda", "MIG-b"),
        ("cuda", "3,5", "cuda", "3,5"),
        ("cpu:1", None, "cpu:1", None),
    ],
)
def test_an_engine_sees_its_own_device_only(
    device: str, visible: str | None, name: str, left: str | None
) -> None:
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert only_device(device, environ) == name
    assert environ.get("CUDA_VISIBLE_DEVICES") == left
