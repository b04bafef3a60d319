"""A running server, as the routes' tests have it."""

from __future__ import annotations

from tests.api import conftest as api_conftest

start_server = api_conftest.start_server
server = api_conftest.server
