"""The bootstrap against scipy's, and calibration numbers against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap
from sklearn.metrics import brier_score_loss, roc_auc_score

from pipelines.lib.bootstrap import (
    difference_interval,
    quantile_interval,
    quantile_ratio_interval,
)
from pipelines.lib.calibration import auroc, calibrate
from pipelines.lib.errors import OptionError

RNG = np.random.default_rng(1)
UNITS = RNG.integers(3, 20, size=80)
FIRST = RNG.binomial(UNITS, 0.20)
SECOND = RNG.binomial(UNITS, 0.12)


def ratio(errors: np.ndarray, units: np.ndarray, axis: int = -1) -> np.ndarray:
    return errors.sum(axis=axis) / units.sum(axis=axis)


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
    units = UNITS.tolist()
    same = difference_interval((errors, errors), units)
    assert (same.estimate, same.low, same.high) == (0, 0, 0)
    both = (errors, SECOND.tolist())
    assert difference_interval(both, units, seed=7) == difference_interval(both, units, seed=7)
    assert difference_interval(both, units, seed=7) != difference_interval(both, units, seed=8)


def test_quantiles_agree_with_scipy() -> None:
    values = RNG.gamma(3, 0.1, size=150)
    ours = quantile_interval(values.tolist(), 0.95)
    theirs = bootstrap(
        (values,), lambda x, axis=-1: np.quantile(x, 0.95, axis=axis), method="percentile",
        n_resamples=4_000, rng=2,
    ).confidence_interval  # fmt: skip
    assert ours.estimate == np.quantile(values, 0.95)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=0.03)


def test_a_ratio_of_quantiles_is_paired() -> None:
    values = RNG.gamma(3, 0.1, size=150)
    found = quantile_ratio_interval(values.tolist(), (2 * values).tolist(), 0.95)
    assert (found.estimate, found.low, found.high) == pytest.approx((2, 2, 2))


def test_too_few_resamples_are_an_error() -> None:
    with pytest.raises(OptionError, match="num_resamples 10 is below"):
        difference_interval(([1], [1]), [2], num_resamples=10)


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
