"""The table of metrics is that of the code, and of what a running server says."""

from __future__ import annotations

import re

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.api.conftest import Server
from tests.docs.metrics_table import README, markdown_table, table_of

NAMES = set(re.findall(r"^\| `(\w+)`", markdown_table(), re.MULTILINE))


def test_the_table_is_that_of_the_code() -> None:
    written = table_of(README.read_text("utf-8"))
    assert written == markdown_table(), "run: python -m tests.docs.metrics_table"


def test_a_running_server_has_exactly_these(server: Server) -> None:
    families = text_string_to_metric_families(httpx.get(server.url + "/metrics").text)
    names = {each.name + "_total" * (each.type == "counter") for each in families}
    ours = {name for name in names if name.startswith("qwen3_asr_")}
    assert {name for name in ours if not name.endswith("_created")} == NAMES


def test_pages_of_the_cache_are_told(server: Server) -> None:
    text = httpx.get(server.url + "/metrics").text
    value = {
        name: float(found[1])
        for name in ("cache_pages", "cache_pages_used", "sequences_preempted_total")
        if (found := re.search(rf'^qwen3_asr_{name}{{device="\S+"}} (\S+)$', text, re.MULTILINE))
    }
    assert 0 <= value["cache_pages_used"] < value["cache_pages"]
    assert value["sequences_preempted_total"] == 0
