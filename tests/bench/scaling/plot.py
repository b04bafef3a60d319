"""Draws results/scaling.json: what each way of scaling costs, and how many requests it makes wait.

python -m tests.bench.scaling.plot   # writes manifests/scaling.png
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator

from tests.bench.environment import ROOT
from tests.bench.scaling.simulate import RESULTS

PICTURE = ROOT / "manifests" / "scaling.png"
CHOSEN = ("Knative, concurrency", "KEDA, qwen3_asr_load, full_load_s 0.5")
COLORS = ("#3274d9", "#8f8f8f", "#e0b400", "#e0752d", "#56a64b", "#a352cc", "#0f8c8c")
Rows = dict[str, dict[str, dict[str, float]]]


def draw(rows: Rows, path: Path) -> None:
    """A panel for each traffic, a point for each autoscaler; ringed: what the manifests use."""
    mpl.use("Agg")
    figure, panels = plt.subplots(2, 2, figsize=(9, 6.2))
    policies = list(next(iter(rows.values())))
    for axes, (traffic, results) in zip(panels.flat, rows.items(), strict=True):
        for color, policy in zip(COLORS, policies, strict=True):
            row = results[policy]
            at = row["gpu_hours"], 100 * row["late"]
            axes.scatter(*at, s=46, color=color, label=policy, zorder=3)
            if policy in CHOSEN:
                axes.scatter(*at, s=150, facecolors="none", edgecolors=color, lw=1.2, zorder=3)
        highest = max(100 * row["late"] for row in results.values())
        axes.set_title(traffic, loc="left", size=10)
        axes.set_xlabel("GPU hours", size=8)
        axes.set_ylabel("requests over their SLO, %", size=8)
        axes.set_xlim(0, 1.1 * max(row["gpu_hours"] for row in results.values()))
        axes.set_ylim(-0.05 * max(highest, 1), 1.12 * max(highest, 1))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.grid(color="#e3e6e9", lw=0.6)
        axes.tick_params(labelsize=8, length=0)
        for side in axes.spines.values():
            side.set_visible(False)
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=2, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.13, 1, 1))
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> None:
    draw(json.loads((RESULTS / "scaling.json").read_text())["rows"], PICTURE)


if __name__ == "__main__":
    main()
