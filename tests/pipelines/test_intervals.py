"""Intervals of rates and differences against scipy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pipelines.lib.errors import OptionError
from pipelines.lib.flips import tail
from pipelines.lib.intervals import (
    MIN_CLUSTERS,
    REPORTED,
    SPARSE,
    holm,
    paired_sums,
    rate_interval,
    scale_that,
)

RNG = np.random.default_rng(1)


def test_no_error_at_all_gets_the_exact_poisson_bound() -> None:
    found = rate_interval([0] * 2000, [1] * 2000)
    assert found is not None
    exact = stats.chi2.isf(0.025, 2) / 2 / 2000  # 3.69 / 2000
    assert (found.estimate, found.low) == (0, 0)
    assert found.high == pytest.approx(exact, rel=0.01)


def test_few_errors_get_about_the_exact_poisson_interval() -> None:
    errors = [1] * 7 + [0] * 4993
    found = rate_interval(errors, [1] * 5000)
    assert found is not None
    low, high = stats.chi2.ppf(0.025, 14) / 2, stats.chi2.isf(0.025, 16) / 2
    assert (found.low * 5000, found.high * 5000) == pytest.approx((low, high), rel=0.02)


def test_many_clusters_give_about_the_normal_interval() -> None:
    units = RNG.integers(5, 30, 4000)
    first, second = RNG.binomial(units, 0.1), RNG.binomial(units, 0.12)
    found = paired_sums(first.tolist(), second.tolist(), units.tolist()).estimate().interval()
    assert found is not None
    gaps = second - first - found.estimate * units
    spread = 1.96 * np.sqrt((gaps**2).sum()) / units.sum()
    assert found.high - found.low == pytest.approx(2 * spread, rel=0.02)


def test_equal_clusters_give_students_t_at_least() -> None:
    """With equal clusters a ratio is a mean: scipy's own interval of a mean is the least."""
    gaps = RNG.normal(1, 3, 12)
    first = np.zeros(12)
    found = paired_sums(first.tolist(), gaps.tolist(), [1.0] * 12).estimate()
    theirs = stats.ttest_1samp(gaps, 0).confidence_interval(0.95)
    assert found.num_changed < SPARSE  # so the rule of three widens it
    assert found.lower(0.025) <= theirs.low
    assert found.upper(0.025) >= theirs.high


def test_identical_versions_have_an_interval_with_width() -> None:
    errors = RNG.binomial(10, 0.1, 200).tolist()
    found = paired_sums(errors, errors, [10.0] * 200).estimate().interval()
    assert found is not None
    assert found.low < 0 < found.high
    longer = paired_sums(errors * 10, errors * 10, [10.0] * 2000).estimate().interval()
    assert longer is not None
    assert longer.high == pytest.approx(found.high / 10, rel=0.1)


def test_few_clusters_say_nothing() -> None:
    errors, units = [1.0] * 90, [10.0] * 90
    nine = [str(i % (MIN_CLUSTERS - 1)) for i in range(90)]
    assert rate_interval(errors, units, nine) is None
    estimate = paired_sums(errors, errors, units, nine).estimate()
    assert (estimate.enough, estimate.interval()) == (False, None)
    assert (estimate.lower(0.01), estimate.upper(0.01)) == (-np.inf, np.inf)
    assert estimate.p_above(0.0) == 1


@pytest.mark.parametrize(("number", "other"), [(5, 0), (8, 0), (8, 1), (12, 2), (20, 5), (40, 12)])
def test_signs_have_about_their_mid_p(number: int, other: int) -> None:
    """Of the binomial distribution, as scipy has it; exactly where all signs are one."""
    terms = np.array([1.0] * (number - other) + [-1.0] * other)
    theirs = stats.binom(number, 0.5)
    mid = theirs.sf(number - other) + theirs.pmf(number - other) / 2
    assert tail(terms, mid_p=True) == pytest.approx(mid, rel=0.25 if other else 1e-9)
    if not other:
        assert tail(terms) == pytest.approx(theirs.sf(number - 1))


@pytest.mark.parametrize(("number", "shown"), [(2, False), (4, False), (5, True), (8, True)])
def test_an_interval_leaves_zero_out_where_signs_do(number: int, shown: bool) -> None:
    """So many of 50 recordings got worse and none better: mid-p is 1/32 with four, 1/64 with five;
    what a verdict rests on is more careful."""
    worse = [1.0] * number + [0.0] * (50 - number)
    estimate = paired_sums([0.0] * 50, worse, [12.0] * 50).estimate()
    found = estimate.interval()
    assert found is not None
    assert (found.low > 0) is shown  # not by a hair: bounds are found by halving
    assert shown or found.low > -0.004
    assert estimate.above(0.0, 0.025, REPORTED) is shown
    assert estimate.lower(0.025) < min(found.low, 0.0) + 0.004
    assert estimate.upper(0.025) > found.high


def test_clusters_widen_the_interval_when_errors_go_together() -> None:
    errors = [9] * 50 + [1] * 150
    speakers = [str(i // 10) for i in range(200)]
    alone, together = (rate_interval(errors, [10] * 200, c) for c in (None, speakers))
    assert alone is not None
    assert together is not None
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_relative_margins_are_a_weight() -> None:
    first, second, units = [10.0] * 30, [11.0] * 30, [100.0] * 30
    sums = paired_sums(first, second, units)
    assert sums.estimate().value == pytest.approx(0.01)
    assert sums.estimate(1.1).value == pytest.approx(0.0)


def test_p_values_are_where_the_bound_meets_the_limit() -> None:
    gaps = RNG.normal(0.5, 1, 60)
    estimate = paired_sums([0.0] * 60, gaps.tolist(), [1.0] * 60).estimate()
    p = estimate.p_above(0.2)
    assert estimate.lower(p) == pytest.approx(0.2, abs=1e-6)


def test_holm_by_hand() -> None:
    """The example of Holm's procedure in many textbooks: 0.01, 0.04, 0.03, 0.005."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_the_scale_that_decides() -> None:
    assert scale_that(lambda scale: scale >= 7) == pytest.approx(7, rel=1e-3)
    assert scale_that(lambda scale: False) is None


def test_nothing_to_count_is_an_error() -> None:
    with pytest.raises(OptionError, match="nothing to count"):
        rate_interval([], [])
    with pytest.raises(OptionError, match="nothing to count"):
        rate_interval([1], [0])
    with pytest.raises(OptionError, match="3 clusters for 1 recordings"):
        rate_interval([1], [2], ["a", "b", "c"])
