"""Intervals against scipy's bootstrap, and calibration numbers against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap
from sklearn.metrics import brier_score_loss, roc_auc_score

from pipelines.lib.bootstrap import difference_interval, mean_difference_interval, rate_interval
from pipelines.lib.calibration import auroc, calibrate
from pipelines.lib.errors import OptionError

RNG = np.random.default_rng(1)
UNITS = RNG.integers(3, 20, size=80)
FIRST = RNG.binomial(UNITS, 0.20)
SECOND = RNG.binomial(UNITS, 0.12)


def ratio(errors: np.ndarray, units: np.ndarray, axis: int = -1) -> np.ndarray:
    return errors.sum(axis=axis) / units.sum(axis=axis)


def test_rate_interval_agrees_with_scipy() -> None:
    ours = rate_interval(FIRST.tolist(), UNITS.tolist())
    theirs = bootstrap(
        (FIRST, UNITS), ratio, paired=True, method="percentile", n_resamples=10_000, rng=2
    ).confidence_interval
    assert ours.estimate == pytest.approx(FIRST.sum() / UNITS.sum())
    assert ours.low == pytest.approx(theirs.low, abs=2e-3)
    assert ours.high == pytest.approx(theirs.high, abs=2e-3)


def test_paired_difference_agrees_with_scipy() -> None:
    ours = difference_interval((FIRST.tolist(), SECOND.tolist()), UNITS.tolist())
    theirs = bootstrap(
        (FIRST, SECOND, UNITS),
        lambda a, b, n, axis=-1: ratio(b, n, axis) - ratio(a, n, axis),
        paired=True,
        method="percentile",
        n_resamples=10_000,
        rng=2,
    ).confidence_interval
    assert ours.high < 0
    assert ours.low == pytest.approx(theirs.low, abs=3e-3)
    assert ours.high == pytest.approx(theirs.high, abs=3e-3)


def test_seeded_and_exact_for_identical_systems() -> None:
    errors = FIRST.tolist()
    same = difference_interval((errors, errors), UNITS.tolist())
    assert (same.estimate, same.low, same.high) == (0, 0, 0)
    assert rate_interval(errors, UNITS.tolist(), seed=7) == rate_interval(
        errors, UNITS.tolist(), seed=7
    )
    assert rate_interval(errors, UNITS.tolist(), seed=7) != rate_interval(
        errors, UNITS.tolist(), seed=8
    )


def test_clusters_widen_the_interval_when_errors_go_together() -> None:
    errors = [9] * 20 + [1] * 60
    units = [10] * 80
    speakers = [str(i // 10) for i in range(80)]
    by_clip = rate_interval(errors, units)
    by_speaker = rate_interval(errors, units, speakers)
    assert by_speaker.estimate == by_clip.estimate
    assert by_speaker.high - by_speaker.low > 1.5 * (by_clip.high - by_clip.low)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for trial in range(200):
        units = rng.integers(3, 15, size=60)
        errors = rng.binomial(units, 0.2)
        found = rate_interval(errors.tolist(), units.tolist(), num_resamples=400, seed=trial)
        covered += found.low <= 0.2 <= found.high
    assert 0.88 <= covered / 200 <= 0.99


def test_mean_difference_by_hand() -> None:
    found = mean_difference_interval([0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0])
    assert found.estimate == 0.5
    assert 0 <= found.low <= 0.5 <= found.high <= 1


def test_nothing_to_count_is_an_error() -> None:
    with pytest.raises(OptionError, match="nothing to count"):
        rate_interval([], [])
    with pytest.raises(OptionError, match="nothing to count"):
        rate_interval([1], [0])
    with pytest.raises(OptionError, match="num_resamples 10 is below"):
        rate_interval([1], [2], num_resamples=10)
    with pytest.raises(OptionError, match="3 clusters for 1 recordings"):
        rate_interval([1], [2], ["a", "b", "c"])


def test_auroc_and_brier_agree_with_scikit_learn() -> None:
    scores = np.round(RNG.random(300), 2)  # rounded: ties
    outcome = RNG.random(300) < scores
    found = calibrate(scores.tolist(), outcome.tolist())
    assert found.auroc == pytest.approx(roc_auc_score(outcome, scores))
    assert found.brier == pytest.approx(brier_score_loss(outcome, scores))


def test_ece_by_hand() -> None:
    found = calibrate([0.95, 0.95, 0.55, 0.0], [True, False, True, False])
    # bin (0.9, 1]: accuracy 0.5, confidence 0.95; bin (0.5, 0.6]: 1, 0.55; first bin: 0, 0
    assert found.ece == pytest.approx(2 / 4 * 0.45 + 1 / 4 * 0.45)
    assert [b.num_clips for b in found.bins] == [1, 0, 0, 0, 0, 1, 0, 0, 0, 2]


def test_calibration_limits() -> None:
    assert auroc([0.1, 0.9], [True, True]) is None
    with pytest.raises(OptionError, match=r"outside 0\.\.1"):
        calibrate([1.1], [True])
    with pytest.raises(OptionError, match="0 confidences"):
        calibrate([], [])
