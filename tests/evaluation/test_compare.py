import dataclasses
import itertools

import numpy as np
import pytest
from scipy.special import xlogy
from scipy.stats import binomtest, norm

from mlvlab_jax.errors import DataError
from mlvlab_jax.evaluation.compare import compare, compute_detectable, compute_mcnemar, compute_tango
from mlvlab_jax.evaluation.predictions import Predictions

NUM = 50


def predict(right, **changes):
    """Predictions over two classes that are right where `right` is."""
    label = np.arange(len(right), dtype=np.int32) % 2
    logits = np.eye(2, dtype=np.float32)[np.where(right, label, 1 - label)]
    ids = tuple(f"/data/images/{k % 3}/{k:04}.png" for k in range(len(right)))
    made = Predictions(ids, np.arange(len(right)), label, logits, ("cat", "dog"), "test", 7, "abc")
    return dataclasses.replace(made, **changes)


def reorder(predictions, order):
    fields = {name: getattr(predictions, name)[order] for name in ("index", "label", "logits")}
    return dataclasses.replace(predictions, ids=tuple(predictions.ids[i] for i in order), **fields)


@pytest.mark.parametrize(("only_a", "only_b"), itertools.product((0, 1, 5, 40), (0, 2, 9, 300)))
def test_mcnemar_is_the_exact_binomial_test_on_the_discordant_pairs(only_a, only_b):
    total = only_a + only_b
    expected = binomtest(only_a, total, 0.5).pvalue if total else 1.0
    assert compute_mcnemar(only_a, only_b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("gained", "lost", "total"), [(9, 3, 44), (0, 0, 20), (20, 0, 20), (0, 7, 359), (40, 31, 2000)]
)
def test_tango_limits_are_where_the_score_test_of_paired_data_turns(gained, lost, total):
    def score(difference):
        """The statistic, its nuisance parameter found on a grid instead of in closed form."""
        low = max(0.0, -difference)
        q = np.linspace(low, (1 - difference) / 2, 200_001)  # probability of a loss; q + difference of a gain
        chances = ((gained, q + difference), (lost, q), (total - gained - lost, 1 - 2 * q - difference))
        best = q[sum(xlogy(count, np.maximum(chance, 0)) for count, chance in chances).argmax()]
        return (gained - lost - total * difference) / np.sqrt(total * (2 * best + difference - difference**2))

    low, high = compute_tango(gained, lost, total)
    assert -1 <= low <= (gained - lost) / total <= high <= 1
    for limit, sign in ((low, 1), (high, -1)):
        if abs(limit) < 0.999:
            assert score(limit) == pytest.approx(sign * norm.ppf(0.975), abs=2e-3)


def test_the_paired_interval_covers_the_truth():
    """Over 2,000 draws for each of five pairs of models and sizes."""
    rng, coverages = np.random.default_rng(0), []
    for total, gain, loss in [
        (100, 0.1, 0.05),
        (359, 0.03, 0.02),
        (359, 0.01, 0.01),
        (1000, 0.02, 0.05),
        (50, 0.2, 0.2),
    ]:
        draws = rng.multinomial(total, [gain, loss, 1 - gain - loss], size=2000)
        limits = {tuple(pair): compute_tango(*pair, total) for pair in np.unique(draws[:, :2], axis=0).tolist()}
        inside = [limits[b, c][0] <= gain - loss <= limits[b, c][1] for b, c, _ in draws.tolist()]
        coverages.append(np.mean(inside))
    assert 0.94 <= np.mean(coverages) <= 0.96
    assert min(coverages) > 0.935


def test_two_models_are_paired_by_id_whatever_the_order_and_the_folder():
    rng = np.random.default_rng(1)
    right_a, right_b = rng.random(NUM) < 0.6, rng.random(NUM) < 0.9
    a, b = predict(right_a), predict(right_b)
    moved = dataclasses.replace(b, ids=tuple(name.replace("/data/images", "/mnt/x") for name in b.ids))
    found = compare(a, reorder(moved, rng.permutation(NUM)))
    assert (found.only_a, found.only_b) == ((right_a & ~right_b).sum(), (right_b & ~right_a).sum())
    assert (found.both, found.neither) == ((right_a & right_b).sum(), (~right_a & ~right_b).sum())
    assert found.difference == pytest.approx(right_b.mean() - right_a.mean())
    assert found.accuracy_b.value == right_b.mean()
    assert found.low < found.difference < found.high
    assert found == compare(a, b)


def test_examples_of_one_name_are_paired_in_split_order():
    right = np.array([True, False, True, False])
    twice = ("a", "a", "b", "b")
    found = compare(predict(right, ids=twice), reorder(predict(right, ids=twice), np.array([2, 3, 0, 1])))
    assert (found.only_a, found.only_b) == (0, 0)


def test_the_verdict_says_which_or_what_would_be_needed():
    better = compare(predict(np.arange(NUM) % 5 > 1), predict(np.ones(NUM, bool)))
    assert better.verdict.startswith("B is better: +40.0 points [27.6, 53.8]")
    assert better.verdict.endswith("p = 1.9e-06")
    worse = compare(predict(np.ones(NUM, bool)), predict(np.arange(NUM) % 5 > 1))
    assert worse.verdict.replace("A is", "B is") == better.verdict
    same = compare(predict(np.ones(NUM, bool)), predict(np.arange(NUM) > 0))
    assert same.verdict == (
        "no difference can be told from 50 examples (p = 1); a difference of about 15.7 points could"
    )


@pytest.mark.parametrize(("total", "discordant"), [(359, 0.05), (2000, 0.1)])
def test_the_detectable_difference_is_found_four_times_in_five(total, discordant):
    difference = compute_detectable(round(discordant * total), total)
    gain, loss = (discordant + difference) / 2, (discordant - difference) / 2
    draws = np.random.default_rng(2).multinomial(total, [gain, loss, 1 - gain - loss], size=2000)
    power = np.mean([compute_mcnemar(c, b) < 0.05 for b, c, _ in draws.tolist()])
    assert 0.72 < power < 0.86


REFUSED = {
    "split": ({"split": "validation"}, "A was evaluated on split 'test', B on 'validation'"),
    "classes": ({"class_names": ("cat", "cow")}, r"only in A \['dog'\], only in B \['cow'\]"),
    "labels": ({"label": np.zeros(NUM, np.int32)}, "25 of 50 examples have another label in B"),
    "ids": ({"ids": tuple(map(str, range(NUM)))}, "50 of the 50 examples of A are not in B, 50 of the 50 of B"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_compared_is_refused(name):
    changes, expected = REFUSED[name]
    right = np.arange(NUM) % 3 > 0
    with pytest.raises(DataError, match=expected):
        compare(predict(right), predict(right, **changes))


def test_missing_examples_are_counted_on_each_side():
    right = np.arange(NUM) % 3 > 0
    a, b = reorder(predict(right), np.arange(0, 45)), reorder(predict(right), np.arange(2, 50))
    with pytest.raises(DataError, match="2 of the 45 examples of A are not in B, 5 of the 48 of B"):
        compare(a, b)
