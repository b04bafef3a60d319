"""The server of the protocols' tests, for the documents' examples."""

from tests.api.conftest import server, start_server

__all__ = ["server", "start_server"]
