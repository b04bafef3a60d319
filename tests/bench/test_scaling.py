"""The autoscalers' arithmetic on the cases of their own tests, and the replayed traffic.

Cases of `Kpa` are from Knative's autoscaler_test.go, of `Hpa` from Kubernetes' documentation of the
horizontal pod autoscaler and its replica_calculator_test.go.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

from tests.bench.environment import ROOT
from tests.bench.scaling import plot, simulate
from tests.bench.scaling.controllers import Hpa, Kpa
from tests.bench.scaling.traffic import Traffic, burst, live

RATES = {"max_scale_up_rate": 10.0, "max_scale_down_rate": 10.0}


def test_knative_follows_the_stable_window_upwards() -> None:
    scaler = Kpa(10, **RATES)
    assert scaler.decide(0, 50, 10, 1) == 5
    assert scaler.decide(0, 100, 10, 1) == 10


def test_knative_follows_it_down_and_to_zero() -> None:
    scaler = Kpa(10, **RATES)
    assert scaler.decide(0, 100, 100, 8) == 10
    assert scaler.decide(0, 50, 50, 8) == 5
    assert Kpa(10, **RATES).decide(0, 1, 0, 1) == 1
    assert Kpa(10, **RATES).decide(0, 0, 0, 1) == 0


def test_knative_leaves_panic_after_the_stable_window() -> None:
    scaler = Kpa(1, **RATES)
    assert scaler.decide(0, 11, 25, 10) == 25
    assert scaler.decide(30, 30, 41, 40) == 41
    assert scaler.panic_since_s == 0
    assert scaler.decide(62, 50, 56, 55) == 50
    assert scaler.panic_since_s is None


def test_knative_stays_in_panic_while_the_surge_lasts() -> None:
    scaler = Kpa(1, **RATES)
    assert scaler.decide(0, 11, 25, 10) == 25
    assert scaler.decide(30, 30, 80, 40) == 80
    assert scaler.panic_since_s == 30


def test_knative_tracks_exponential_growth_and_never_shrinks_in_panic() -> None:
    scaler = Kpa(1, **RATES)
    decided = [scaler.decide(n, 6.0 ** (n + 1), 6.0 ** (n + 1), 6**n) for n in range(4)]
    assert decided == [6, 36, 216, 1296]
    assert scaler.decide(4, 1296, 1296, 1296) == 1296
    assert scaler.decide(5, 10, 10, 1296) == 1296


@pytest.mark.parametrize(("stable", "expected"), [(50, 50), (20, 30)])
def test_knative_takes_the_larger_of_both_windows_in_panic(stable: float, expected: int) -> None:
    scaler = Kpa(1, panic_since_s=-5, max_panic_pods=5, **RATES)
    assert scaler.decide(0, stable, 30, 5) == expected


def test_knative_delays_going_down() -> None:
    scaler = Kpa(10, panic_threshold=100, scale_down_delay_s=300, **RATES)
    assert scaler.decide(2, 40, 40, 1) == 4
    assert scaler.decide(60, 0, 0, 4) == 4
    assert scaler.decide(303, 0, 0, 4) == 0


@pytest.mark.parametrize(
    ("pods", "total", "target", "expected"),
    [
        (3, 8600, 2150, 4),
        (5, 8600, 2867, 3),
        (1, 200, 100, 2),
        (2, 100, 100, 1),
        (4, 430, 100, 4),  # 7 % above the target
        (4, 370, 100, 4),
        (2, 5000, 100, 6),  # four pods more in a period,
        (8, 5000, 100, 16),  # or twice as many
    ],
)
def test_kubernetes_divides_by_the_target_beyond_the_tolerance(
    pods: int, total: float, target: float, expected: int
) -> None:
    assert Hpa(target).decide(0, total, pods) == expected


def test_kubernetes_goes_down_to_the_highest_of_five_minutes() -> None:
    scaler = Hpa(100)
    assert scaler.decide(0, 400, 4) == 4
    assert scaler.decide(15, 100, 4) == 4
    assert scaler.decide(300, 200, 4) == 4
    assert scaler.decide(315, 100, 4) == 2
    assert scaler.decide(700, 100, 2) == 1


def test_no_audio_is_lost() -> None:
    """Whatever the scaler does: what came was served, or waits."""
    service = simulate.Service(simulate.measured())
    rng = np.random.default_rng(7)
    came = 0.0
    for now in range(600):
        clips, longs = int(rng.poisson(800)), int(rng.random() < 0.02)
        came += clips * 10 + longs * 3600
        before = len(service.long_remaining)
        service.step(now, clips, longs, 0)
        assert len(service.long_remaining) <= before + longs
    waiting = service.clips_s + sum(left for _, left in service.long_remaining)
    assert service.clips_s > 0
    assert waiting < came
    assert service.arrived[-1] == pytest.approx(service.served[-1] + service.clips_s)


def test_requests_that_wait_are_late_and_others_are_not() -> None:
    replica = simulate.measured()
    none = np.zeros(300, int)
    idle = Traffic("idle", np.full(300, 10), none, none)
    flood = Traffic("flood", np.full(300, 2_000), none, none)
    never = simulate.Policy("never", Hpa, lambda _: 0.0, 1)
    assert simulate.run(idle, never, replica)["late"] == 0
    assert simulate.run(flood, never, replica)["late"] > 0.9


def test_only_what_counts_sessions_scales_for_them() -> None:
    replica = simulate.measured()
    traffic = live(simulate.PEAK, hours=0.5, sessions=300)
    rows = {p.name: simulate.run(traffic, p, replica) for p in simulate.policies(replica)}
    assert rows["KEDA, 640 audio seconds held"]["most_pods"] <= 2
    assert rows[simulate.load_name(5.0)]["most_pods"] > 3


def test_the_document_has_the_results_and_they_are_of_this_code() -> None:
    rows = json.loads((simulate.RESULTS / "scaling.json").read_text())["rows"]
    text = simulate.DOCUMENT.read_text()
    shown = text.partition(simulate.BEGIN)[2].partition(simulate.END)[0]
    assert shown == simulate.table(rows), "run: python -m tests.bench.scaling.simulate"
    replica = simulate.measured()
    for policy in simulate.policies(replica):
        again = simulate.run(burst(simulate.PEAK), policy, replica)
        assert again == pytest.approx(rows["burst"][policy.name])


def test_the_manifests_scale_as_the_best_of_the_simulated() -> None:
    """Of what kept the SLO all day and refused no session, KEDA with the fewest GPU hours."""
    rows = json.loads((simulate.RESULTS / "scaling.json").read_text())["rows"]
    kept = [
        name
        for name, row in rows["day curve"].items()
        if name.startswith("KEDA")
        and row["late"] < 0.001
        and not rows["live sessions"][name]["refused_sessions"]
    ]
    best = min(kept, key=lambda name: rows["day curve"][name]["gpu_hours"])
    folder = ROOT / "manifests" / "components"
    [patch] = yaml.safe_load((folder / "keda" / "runtime.yaml").read_text())
    flag, _, full_load_s = patch["value"].partition("=")
    assert flag == "--full_load_s"
    assert simulate.load_name(float(full_load_s)) == best
    service = yaml.safe_load((folder / "keda" / "inference-service.yaml").read_text())
    [metric] = service["spec"]["predictor"]["autoScaling"]["metrics"]
    assert metric["external"]["metric"]["query"].startswith("100 * sum(qwen3_asr_load{")
    assert float(metric["external"]["target"]["value"]) == 100 * simulate.LOAD_TARGET
    knative = yaml.safe_load(
        (folder / "knative-autoscaling" / "inference-service.yaml").read_text()
    )
    concurrency = simulate.policies(simulate.measured())[0]
    assert concurrency.target == pytest.approx(knative["spec"]["predictor"]["scaleTarget"] * 0.7)
    assert set(plot.CHOSEN) == {best, concurrency.name}
