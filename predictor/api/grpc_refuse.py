"""The cheapest answer over gRPC: a full server refuses a call by its metadata alone.

As `refuse_when_full` over HTTP: nearly all calls are refused at many times what a server can bear.
Here nothing of the message is read, and nothing is sent before the status, so that gRPC's own
clients may try again, after the time that the answer names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import grpc  # type: ignore[import-untyped]

from predictor.api.auth import KeyRing
from predictor.api.grpc_calls import Calls, Context, Metadata, text_metadata
from predictor.errors import Overloaded, Unauthorized
from predictor.logs import noting

_CODE: Final = getattr(grpc.StatusCode, Overloaded.spec.grpc_code)


class RefuseCallWhenFull(grpc.GenericRpcHandler):  # type: ignore[misc]  # gRPC is untyped
    """Stands before the handlers of methods, and has none for a call that they may take."""

    def __init__(
        self, method: str, check_room: Callable[[], None], keys: KeyRing, calls: Calls
    ) -> None:
        self._method = method  # "/service/method"
        self._check_room = check_room  # raises Overloaded
        self._keys = keys
        self._calls = calls

    def service(self, handler_call_details: Any) -> Any | None:
        """What refuses the call, or None."""
        if handler_call_details.method != self._method:
            return None
        try:
            self._check_room()
        except Overloaded as error:
            return self._refusing(error, text_metadata(handler_call_details.invocation_metadata))
        return None

    def _refusing(self, error: Overloaded, headers: dict[str, str]) -> Any | None:
        with noting() as noted:
            try:
                self._keys.check(headers)
            except Unauthorized:
                return None  # who has no key is told so, full or not
            return _handler(error.message, self._calls.refused(headers, error, noted))


def _handler(message: str, trailing: Metadata) -> Any:
    """Sends the status and nothing else. A stream of answers that has none: of another method gRPC
    would send an empty answer first, and `abort` ends in an exception, which costs."""

    async def refuse(_: object, context: Context) -> None:
        context.set_code(_CODE)
        context.set_details(message)
        context.set_trailing_metadata(trailing)

    return grpc.stream_stream_rpc_method_handler(refuse)
