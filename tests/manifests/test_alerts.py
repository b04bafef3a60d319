"""Prometheus itself judges the rules: promtool checks every expression and fires every alert."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
import yaml

from tests.manifests import faults
from tests.manifests.combinations import between
from tests.manifests.objects import MANIFESTS, Object
from tests.manifests.queries import dashboards, panel_expressions, rule_expressions, scaler_queries

pytestmark = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not on the PATH (Debian: prometheus)"
)
CASES = Path(__file__).with_name("alerts.yaml")


@cache
def parsed(path: Path) -> Object:
    """Read once: some of these files take PyYAML a tenth of a second."""
    content: Object = yaml.safe_load(path.read_text())
    return content


def rule_file() -> Object:
    rules: Object = parsed(MANIFESTS / "components/monitoring/prometheus-rule.yaml")["spec"]
    return copy.deepcopy(rules)


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, check=False
    )


ALERTS = {
    rule["alert"] for group in rule_file()["groups"] for rule in group["rules"] if "alert" in rule
}


def run_cases(folder: Path, rules: Object, only: str = "") -> subprocess.CompletedProcess[str]:
    """The unit tests of alerts.yaml, of one alert if named, against a rule file."""
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    cases = {**parsed(CASES), "rule_files": ["rules.yaml"]}
    cases["tests"] = [case for case in cases["tests"] if case["name"].startswith(only)]
    (folder / "cases.yaml").write_text(yaml.safe_dump(cases, sort_keys=False))
    return promtool("test", "rules", folder / "cases.yaml")


def test_rules_are_valid(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rule_file()))
    checked = promtool("check", "rules", tmp_path / "rules.yaml")
    assert checked.returncode == 0, checked.stderr
    assert "26 rules found" in checked.stdout


def test_alerts_fire_when_they_should_and_only_then(tmp_path: Path) -> None:
    tested = run_cases(tmp_path, rule_file())
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_has_its_entry_in_the_runbook() -> None:
    text = (MANIFESTS / "RUNBOOK.md").read_text()
    entries = re.split(r"^## ", text.partition("\n## Tried\n")[0], flags=re.MULTILINE)[1:]
    assert {entry.splitlines()[0] for entry in entries} == ALERTS
    for entry in entries:
        assert [word for word in ("Symptom", "Look", "Act") if f"**{word}.**" not in entry] == []
    for rule in rule_file()["groups"][1]["rules"]:
        link = f"manifests/RUNBOOK.md#{rule['alert'].lower()}"
        assert rule["annotations"]["runbook"] == link


def test_the_runbook_names_panels_that_there_are(monitored: list[Object]) -> None:
    titles = {panel["title"] for _, board in dashboards(monitored) for panel in board["panels"]}
    boards = {board["title"].split(" / ")[1] for _, board in dashboards(monitored)}
    text = " ".join((MANIFESTS / "RUNBOOK.md").read_text().split())
    named = re.findall(r'(?:([A-Z][a-z ]+), )?"([A-Z][^"`]+)"', text)
    assert len(named) > 15
    assert {title for _, title in named} <= titles
    assert {board for board, _ in named if board} <= boards


def test_the_runbook_says_which_alerts_a_fault_has_fired() -> None:
    """And of the rest that only promtool did."""
    results = json.loads(faults.RESULTS.read_text())
    text = (MANIFESTS / "RUNBOOK.md").read_text()
    assert between(text, faults.BEGIN, faults.END) == faults.table(results)
    fired = {name for each in results["faults"] for name in each["fired"]}
    for each in results["faults"]:
        assert set(each["fired"]) <= set(each["wanted"])
    assert fired.isdisjoint(results["not_fired"])
    assert fired | set(results["not_fired"]) == ALERTS


def test_hurried_rules_are_rules(monitored: list[Object], tmp_path: Path) -> None:
    """What the faults are tried with: the same rules, a sixtieth of the time."""
    rules = faults.hurried(copy.deepcopy(monitored))
    [rule] = [each for each in rules if each["kind"] == "PrometheusRule"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rule["spec"]))
    assert promtool("check", "rules", tmp_path / "rules.yaml").returncode == 0
    assert faults.faster("[6h]") == "[360s]"
    assert faults.faster("2m") == "2s"


def test_every_panel_has_a_description_and_a_unit(monitored: list[Object]) -> None:
    boards = dict(dashboards(monitored))
    assert len(boards) == 5
    for board in boards.values():
        assert board["title"].startswith("Qwen3-ASR / ")
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
        for panel in board["panels"]:
            assert panel["description"].endswith("."), panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
    assert len({board["uid"] for board in boards.values()}) == len(boards)


def test_every_alert_has_a_case() -> None:
    alerts = {
        rule["alert"] for g in rule_file()["groups"] for rule in g["rules"] if "alert" in rule
    }
    expected: dict[str, list[bool]] = {name: [] for name in alerts}
    for case in parsed(CASES)["tests"]:
        for check in case["alert_rule_test"]:
            expected[check["alertname"]].append(bool(check.get("exp_alerts")))
    assert {name for name, fires in expected.items() if set(fires) != {True, False}} == set()


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_the_cases_notice_an_alert_that_never_fires(tmp_path: Path, alert: str) -> None:
    rules = rule_file()
    [rule] = [each for each in rules["groups"][1]["rules"] if each["alert"] == alert]
    rule["expr"] = f"({rule['expr']}) and vector(0) > 1"
    rules["groups"][1]["rules"] = [rule]  # the others have nothing to do with its cases
    tested = run_cases(tmp_path, rules, only=alert)
    assert tested.returncode != 0
    assert alert in tested.stdout + tested.stderr


def test_queries_of_panels_and_scalers_are_valid(monitored: list[Object], tmp_path: Path) -> None:
    """A recording rule per query, since promtool checks rule files."""
    queries = [
        (f"{file}:{title}", expression)
        for file, dashboard in dashboards(monitored)
        for title, expression in panel_expressions(dashboard)
    ]
    queries += list(scaler_queries(monitored))
    assert len(queries) > 60
    rules = [{"record": f"q:{n}", "expr": expression} for n, (_, expression) in enumerate(queries)]
    (tmp_path / "q.yaml").write_text(yaml.safe_dump({"groups": [{"name": "q", "rules": rules}]}))
    checked = promtool("check", "rules", tmp_path / "q.yaml")
    assert checked.returncode == 0, checked.stderr


def test_the_scaler_sees_the_load_of_its_namespace(monitored: list[Object], tmp_path: Path) -> None:
    [(_, query)] = scaler_queries(monitored)

    def series(namespace: str, pod: str, value: float) -> Object:
        labels = f'namespace="{namespace}",pod="{pod}"'
        return {"series": f"qwen3_asr_load{{{labels}}}", "values": str(value)}

    here, elsewhere = "qwen3-asr", "other"
    given = [series(here, "a", 0.75), series(here, "b", 1.5), series(elsewhere, "c", 8.0)]
    cases = {
        "tests": [
            {"interval": "1m", "input_series": inputs, "promql_expr_test": [expected(query, value)]}
            for inputs, value in ((given, 225), (given[2:], 0))
        ]
    }
    (tmp_path / "cases.yaml").write_text(yaml.safe_dump(cases))
    tested = promtool("test", "rules", tmp_path / "cases.yaml")
    assert tested.returncode == 0, tested.stdout + tested.stderr


def expected(query: str, value: int) -> Object:
    return {"expr": query, "eval_time": "0m", "exp_samples": [{"labels": "{}", "value": value}]}


def test_an_invalid_query_is_caught(tmp_path: Path) -> None:
    broken = rule_file()
    broken["groups"][0]["rules"][0]["expr"] = "sum by (code) rate(qwen3_asr_requests_total[5m]))"
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(broken))
    assert promtool("check", "rules", tmp_path / "rules.yaml").returncode != 0


def test_recorded_names_are_used(monitored: list[Object]) -> None:
    recorded = {record for _, _, record in rule_expressions(monitored) if record}
    alerts = [expression for _, expression, record in rule_expressions(monitored) if not record]
    unused = {name for name in recorded if not any(name in expression for expression in alerts)}
    assert unused <= {"qwen3_asr:requests:rate5m", "qwen3_asr:real_time_factor_inverse:rate5m"}
