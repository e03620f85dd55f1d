"""Statistics over seeds against scipy and known coverage."""

import numpy as np
import pytest
from scipy import stats

from purerl.math.statistics import bootstrap_interval, finite, iqm, summarize


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 9, 16, 33])
def test_iqm_is_the_trimmed_mean(n: int) -> None:
    scores = np.random.default_rng(n).normal(size=n)
    assert iqm(scores) == pytest.approx(stats.trim_mean(scores, 0.25))


def test_iqm_ignores_the_outer_half() -> None:
    assert iqm(np.array([-1e9, 1.0, 3.0, 1e9])) == 2.0


def test_a_seed_that_broke_down_is_below_all_others() -> None:
    assert iqm(np.array([1.0, np.nan, 5.0, 3.0])) == 2.0


def test_interval_agrees_with_scipy() -> None:
    scores = np.random.default_rng(1).exponential(size=12)
    low, high = bootstrap_interval(scores)  # type: ignore[misc]
    theirs = stats.bootstrap((scores,), np.mean, method="percentile", n_resamples=10_000, rng=0).confidence_interval
    assert float(low) == pytest.approx(theirs.low, abs=0.03)
    assert float(high) == pytest.approx(theirs.high, abs=0.03)


def test_interval_covers_the_mean_about_as_often_as_promised() -> None:
    draws = np.random.default_rng(2).normal(size=(20, 400))  # 400 experiments of 20 seeds
    low, high = bootstrap_interval(draws, resamples=1000)  # type: ignore[misc]
    covered = np.mean((low <= 0) & (high >= 0))
    assert 0.89 < covered < 0.97


def test_interval_of_many_seeds_is_that_of_a_normal_distribution() -> None:
    scores = np.random.default_rng(4).normal(size=400)
    summary = summarize(scores)
    low, high = summary["ci95"]  # type: ignore[misc]
    assert high - low == pytest.approx(2 * 1.96 * scores.std() / 20, rel=0.03)
    assert [low, high] == pytest.approx([float(bound) for bound in bootstrap_interval(scores)])  # type: ignore[union-attr]


def test_interval_of_one_seed_is_none() -> None:
    assert bootstrap_interval(np.array([3.0])) is None
    assert summarize(np.array([3.0])) == {"per_member": [3.0], "mean": 3.0, "iqm": 3.0, "ci95": None}


def test_interval_stays_within_the_data_and_skips_missing() -> None:
    scores = np.array([[500.0, np.nan, np.nan], [500.0, 1.0, np.nan], [200.0, 3.0, np.nan]])
    low, high = bootstrap_interval(scores)  # type: ignore[misc]
    assert low[0] == 200.0
    assert high[0] == 500.0
    assert 1.0 <= low[1] <= high[1] <= 3.0
    assert np.isnan([low[2], high[2]]).all()


def test_strata_do_not_widen_the_interval() -> None:
    luck = np.random.default_rng(3).normal(size=(2, 10))
    apart = luck + np.array([[0.0], [1000.0]])
    low, high = summarize(apart)["ci95"]  # type: ignore[misc]
    assert high - low < 2.0
    assert summarize(apart)["mean"] == pytest.approx(np.mean(apart))


def test_strata_are_resampled_apart() -> None:
    """The mean of two independent strata is known better by sqrt(2) than that of either."""
    scores = np.random.default_rng(5).normal(size=40)
    (low, high), (one_low, one_high) = (summarize(each)["ci95"] for each in (np.stack([scores, scores]), scores))  # type: ignore[misc]
    assert high - low == pytest.approx((one_high - one_low) / np.sqrt(2), rel=0.03)


def test_summaries_are_reproducible_and_fit_json() -> None:
    scores = np.array([1.0, np.inf, 2.0])
    assert summarize(scores) == summarize(scores)
    assert summarize(scores)["per_member"] == [1.0, None, 2.0]
    assert summarize(scores)["mean"] is None
    assert finite(float("nan")) is None
