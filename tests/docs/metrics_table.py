"""The metrics in words: writes the table of predictor/settings/README.md.

python -m tests.docs.metrics_table
"""

from __future__ import annotations

from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from predictor.metrics import Figures, Metrics

README = Path(__file__).parents[2] / "predictor" / "settings" / "README.md"
BEGIN, END = "<!-- metrics:begin -->\n", "<!-- metrics:end -->\n"


def markdown_table() -> str:
    """A row for each metric, as it is named on `/metrics`; buckets of histograms in their unit."""
    metrics = Metrics(CollectorRegistry())
    lines = ["| Metric | Kind | Labels | Meaning |", "| --- | --- | --- | --- |"]
    rows = [row for each in vars(metrics).values() for row in _rows(each)]
    return "\n".join([*lines, *rows]) + "\n"


def _rows(metric: object) -> list[str]:
    if isinstance(metric, Figures):
        return [_row(each.name, each.kind, each.labels, each.meaning) for each in metric.figures]
    if isinstance(metric, Counter | Gauge | Histogram):
        [described] = metric.describe()
        labels: tuple[str, ...] = metric._labelnames
        return [_row(described.name, described.type, labels, described.documentation)]
    return []


def _row(name: str, kind: str, labels: tuple[str, ...], meaning: str) -> str:
    shown = name + ("_total" if kind == "counter" else "")
    return f"| `{shown}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {meaning} |"


def table_of(text: str) -> str:
    """What stands between the marks. Raises ValueError without them."""
    return text[text.index(BEGIN) + len(BEGIN) : text.index(END)]


def main() -> None:
    """Write the table anew."""
    text = README.read_text("utf-8")
    README.write_text(text.replace(BEGIN + table_of(text) + END, BEGIN + markdown_table() + END))


if __name__ == "__main__":
    main()
