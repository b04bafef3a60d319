"""Servers under attack are processes of their own, with limits low enough to reach quickly."""

from tests.api.conftest import (  # noqa: F401
    encodings,
    recordings,
    said,
    server,
    speech,
    start_server,
    wav,
)
