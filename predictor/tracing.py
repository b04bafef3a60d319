"""Spans of a request, where OpenTelemetry is set up; where it is not, nothing is made.

FastAPI makes the span of an HTTP request or a WebSocket, and sets the exporter up from the standard
environment; gRPC's is made here. Below it: `recording`, in that `decode_audio`, `piece` (`queue`,
`prefill`, `generate`, `words`) and `join`. What an engine did, perhaps in another process, is told
by the times that come with a request's last tokens.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from opentelemetry import propagate, trace
from opentelemetry.trace import Link, ProxyTracerProvider, Span, SpanContext, SpanKind, StatusCode

from predictor.types import EngineTimes

Value = str | int | float | bool
_SCOPE: Final = "qwen3-asr"
NO_SPAN: Final[Span] = trace.INVALID_SPAN
_MAX_STEPS: Final = 256  # prefill steps whose spans can still be linked to


def is_on() -> bool:
    """Whether somebody collects spans."""
    return not isinstance(trace.get_tracer_provider(), ProxyTracerProvider)


def trace_id() -> str | None:
    """The id of the trace that is open here, in hexadecimal."""
    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else None


@contextmanager
def span(name: str, **attributes: Value) -> Iterator[Span]:
    """A part of the request around the block; attributes may be added to what is given."""
    if not is_on():
        yield NO_SPAN
        return
    with _tracer().start_as_current_span(
        name, attributes=attributes, record_exception=False
    ) as opened:
        yield opened


def begin(name: str, **attributes: Value) -> Span:
    """A part of the request that whoever calls ends; it does not become the current one."""
    if not is_on():
        return NO_SPAN
    return _tracer().start_span(name, attributes=attributes)


@contextmanager
def grpc_call(method: str, metadata: Mapping[str, str]) -> Iterator[Span]:
    """The span of a call, in the caller's trace if there is one."""
    if not is_on():
        yield NO_SPAN
        return
    attributes = {
        "rpc.system": "grpc",
        "rpc.service": "inference.GRPCInferenceService",
        "rpc.method": method,
    }
    with _tracer().start_as_current_span(
        f"inference.GRPCInferenceService/{method}",
        context=propagate.extract(dict(metadata)),
        kind=SpanKind.SERVER,
        attributes=attributes,
        record_exception=False,
    ) as opened:
        yield opened


class Batches:
    """Who shared a prefill step: each of its spans links to those that were told before it."""

    def __init__(self) -> None:
        self._steps: OrderedDict[int, list[SpanContext]] = OrderedDict()

    def links(self, step: int) -> list[Link]:
        """To the spans of the step so far."""
        return [Link(context) for context in self._steps.get(step, ())]

    def add(self, step: int, context: SpanContext) -> None:
        """One more of the step."""
        self._steps.setdefault(step, []).append(context)
        if len(self._steps) > _MAX_STEPS:
            self._steps.popitem(last=False)


_batches = Batches()


def engine_spans(times: EngineTimes | None, num_tokens: int) -> None:
    """What the engine did for the piece whose span is current."""
    if times is None or not is_on() or not trace.get_current_span().is_recording():
        return
    _past("queue", times.queued_s, times.began_s or times.ended_s)
    if not times.began_s:
        return
    prefilled_s = times.first_token_s or times.ended_s
    prefill = _past(
        "prefill",
        times.began_s,
        prefilled_s,
        links=_batches.links(times.step),
        step=times.step,
        batch_size=times.batch_size,
    )
    _batches.add(times.step, prefill.get_span_context())
    _past("generate", prefilled_s, times.ended_s, tokens=num_tokens)


def failed(opened: Span, code: str) -> None:
    """Marks a span with the error's code, which says no more than the answer does."""
    opened.set_status(StatusCode.ERROR, code)
    opened.set_attribute("error.type", code)


def _past(
    name: str, start_s: float, end_s: float, links: list[Link] | None = None, **attributes: Value
) -> Span:
    offset_ns = time.time_ns() - time.monotonic_ns()
    done = _tracer().start_span(
        name,
        start_time=round(start_s * 1e9) + offset_ns,
        attributes=attributes,
        links=links or [],
    )
    done.end(round(max(start_s, end_s) * 1e9) + offset_ns)
    return done


def _tracer() -> trace.Tracer:
    return trace.get_tracer(_SCOPE)
