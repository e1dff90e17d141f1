import numpy as np
import pytest
from scipy.stats import binom, bootstrap, norm

from mlvlab_jax.evaluation.intervals import (
    NUM_RESAMPLES,
    compute_wilson,
    estimate_error,
    estimate_percentile,
    estimate_share,
    resample,
)

RNG = np.random.default_rng(0)


def test_wilson_by_hand():
    low, high = compute_wilson(8, 10)
    z2 = norm.ppf(0.975) ** 2  # 3.8415
    half = np.sqrt(0.8 * 0.2 / 10 + z2 / 400)
    assert low == pytest.approx((0.8 + z2 / 20 - np.sqrt(z2) * half) / (1 + z2 / 10), abs=1e-12)
    assert (round(float(low), 4), round(float(high), 4)) == (0.4902, 0.9433)
    assert [np.round(x, 4) for x in compute_wilson(0, 10)] == [0.0, 0.2775]
    assert [np.round(x, 4) for x in compute_wilson(10, 10)] == [0.7225, 1.0]
    assert compute_wilson(0, 0) == (0.0, 1.0)


def test_wilson_limits_are_the_shares_that_the_score_test_just_does_not_reject():
    right, trials = np.array([1, 7, 350, 9_999]), np.array([5, 20, 359, 10_000])
    for limit in compute_wilson(right, trials):
        score = (right / trials - limit) / np.sqrt(limit * (1 - limit) / trials)
        np.testing.assert_allclose(np.abs(score), norm.ppf(0.975), rtol=1e-9)


@pytest.mark.parametrize("trials", [50, 200, 359, 2000, 10_000])
def test_wilson_covers_the_truth(trials):
    """Exactly, by the binomial distribution: for accuracies that leave ten mistakes or more, 94 to 96 % on average."""
    right = np.arange(trials + 1)
    low, high = compute_wilson(right, np.full(trials + 1, trials))
    shares = np.linspace(0.5, 1 - 10 / trials, 25)
    coverage = np.array([binom.pmf(right, trials, p)[(low <= p) & (p <= high)].sum() for p in shares])
    assert 0.94 <= coverage.mean() <= 0.96
    assert coverage.min() > 0.925


def test_wilson_covers_the_truth_where_mistakes_are_few():
    """With one to ten mistakes expected it is between 92 % and 99 %, 95 % on average."""
    right = np.arange(360)
    low, high = compute_wilson(right, np.full(360, 359))
    shares = 1 - np.linspace(1, 10, 50) / 359
    coverage = np.array([binom.pmf(right, 359, p)[(low <= p) & (p <= high)].sum() for p in shares])
    assert 0.94 <= coverage.mean() <= 0.965
    assert coverage.min() > 0.91


def test_a_share_has_its_wilson_interval():
    estimate = estimate_share(np.arange(10) < 8)
    assert estimate.value == 0.8
    assert estimate[1:] == (*compute_wilson(8, 10), "wilson")


@pytest.mark.parametrize("draw", [RNG.normal, RNG.exponential], ids=["normal", "skewed"])
def test_the_bootstrap_is_that_of_scipy(draw):
    values = draw(1.0, size=400)
    measures = {"mean": lambda w: w @ values / 400, "square": lambda w: w @ values**2 / 400}
    ours = resample(measures, 400)
    for name, data in (("mean", values), ("square", values**2)):
        theirs = bootstrap((data,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1))
        low, high = theirs.confidence_interval
        estimate = estimate_percentile(float(data.mean()), ours[name])
        assert ours[name].shape == (NUM_RESAMPLES,)
        np.testing.assert_allclose([estimate.low, estimate.high], [low, high], atol=0.05 * (high - low))
    assert resample(measures, 400)["mean"].tolist() == ours["mean"].tolist()


def test_every_resample_counts_each_example_as_often_as_it_was_drawn():
    seen = []
    resample({"all": lambda w: seen.append(w) or w.sum(1)}, 3000)
    weights = np.concatenate(seen)
    assert weights.shape == (NUM_RESAMPLES, 3000)
    assert (weights.sum(1) == 3000).all()
    assert weights.var() == pytest.approx(1 - 1 / 3000, rel=0.01)


def test_an_error_of_chance_goes_down_to_zero_and_one_that_is_real_does_not():
    resamples = np.linspace(0.06, 0.10, 1000)
    chance = estimate_error(0.05, resamples, np.linspace(0.03, 0.07, 1000))
    assert (chance.low, chance.high) == (0.0, 0.05)
    real = estimate_error(0.08, resamples, np.linspace(0.0, 0.03, 1000))
    assert real.low == pytest.approx(2 * 0.08 - 0.099, abs=1e-4)
    assert real.high == pytest.approx(2 * 0.08 - 0.061, abs=1e-4)
