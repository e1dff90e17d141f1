import numpy as np
import pytest
from scipy.stats import norm

from mlvlab_jax.config.fields import configclass, dump_params, params_from
from mlvlab_jax.config.monitoring import DriftConfig
from mlvlab_jax.errors import DataError
from mlvlab_jax.monitoring.detector import Detector, compute_level, compute_share, correct_holm
from mlvlab_jax.monitoring.drift.finding import DriftTest, Finding
from mlvlab_jax.plugins import DRIFT_TESTS, Entry
from tests.monitoring.synthetic import Shift, draw_reference, draw_window

CLOSED_FORM = [{"name": name} for name in ("kolmogorov_smirnov", "chi_square", "psi")]


@configclass
class ScriptedParams:
    """None."""


def script(monkeypatch, findings, min_effect=0.0):
    """A detector, and a window for it, whose only test finds what the list holds next."""

    def build(params, *, reference):
        return DriftTest(lambda window: findings.pop(0), min_effect)

    monkeypatch.setitem(DRIFT_TESTS._entries, "scripted", Entry("scripted", ScriptedParams, build, {}))
    rng = np.random.default_rng(0)
    reference = draw_reference(rng, 200)
    config = params_from(DriftConfig, {"tests": [{"name": "scripted"}]})
    return Detector(reference, config), draw_window(rng, reference)


def test_holm_by_hand():
    """R's p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm"); with weights 2 and 1, 0.02 / 2 * 3 and 0.06 * 1."""
    ones = np.ones(4)
    np.testing.assert_allclose(correct_holm(np.array([0.01, 0.04, 0.03, 0.005]), ones), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(correct_holm(np.array([0.02, 0.06]), np.array([2.0, 1.0])), [0.03, 0.06])
    np.testing.assert_array_equal(correct_holm(np.array([0.6, 0.7]), ones[:2]), [1, 1])
    assert correct_holm(np.array([]), np.array([])).shape == (0,)


def test_a_window_differs_where_a_corrected_p_value_and_its_effect_do(monkeypatch):
    level = compute_level(DriftConfig(), num_window=500, num_reference=200)
    sharp, faint = Finding("a", level / 4, 0.2), Finding("b", 1e-9, 0.05)
    for findings, rejected in [([sharp, faint], ["a"]), ([sharp] * 5, []), ([faint], [])]:
        detector, window = script(monkeypatch, [findings], min_effect=0.1)
        verdict = detector.judge(window)
        assert [result.feature for result in verdict.results if result.rejected] == rejected
        assert verdict.rejected == bool(rejected)
        assert verdict.results[0].floor == 0.1


def test_the_alarm_needs_windows_in_a_row_to_come_and_to_go(monkeypatch):
    said = [0, 1, 0, 1, 1, 0, 1, 0, 0, 1]
    differs, agrees = [Finding("a", 0.0, 1.0)], [Finding("a", 1.0, 0.0)]
    detector, window = script(monkeypatch, [differs if one else agrees for one in said])
    verdicts = [detector.push(window) for _ in said]
    assert [verdict.rejected for verdict in verdicts] == [bool(one) for one in said]
    on = [*[False] * 4, *[True] * 4, False, False]
    assert [verdict.alarm for verdict in verdicts] == on
    afresh, _ = script(monkeypatch, [])
    assert [afresh.count(bool(one)) for one in said] == on


def test_a_window_with_nothing_to_compare_agrees(monkeypatch):
    detector, window = script(monkeypatch, [[]])
    assert detector.push(window) == (False, (), False)


def test_too_few_examples_are_refused():
    rng = np.random.default_rng(0)
    reference = draw_reference(rng, 200)
    with pytest.raises(DataError, match="window of 499 observations; expected at least 500"):
        Detector(reference, DriftConfig()).judge(draw_window(rng, reference, 499))
    with pytest.raises(DataError, match="reference has 99 examples; expected at least 100"):
        Detector(draw_reference(rng, 99), DriftConfig())


@pytest.mark.parametrize("shift", [Shift(values=1.0), Shift(prior=0.4), Shift(embedding=0.5)], ids=str)
def test_each_kind_of_shift_raises_the_alarm_within_two_windows(shift):
    rng = np.random.default_rng(0)
    reference = draw_reference(rng, 1000)
    detector = Detector(reference, DriftConfig())
    assert not any(detector.push(draw_window(rng, reference)).rejected for _ in range(2))
    verdicts = [detector.push(draw_window(rng, reference, shift=shift)) for _ in range(2)]
    assert [verdict.alarm for verdict in verdicts] == [False, True]
    seen = {result.feature for verdict in verdicts for result in verdict.results if result.rejected}
    expected = {
        "values": {"brightness", "height_px", "confidence"},
        "prior": {"prediction"},
        "embedding": {"embedding"},
    }
    (kind,) = (name for name, size in shift._asdict().items() if size)
    assert seen == expected[kind]


@pytest.mark.parametrize(("level", "persistence"), [(0.01, 1), (0.07, 2), (0.2, 3)])
def test_the_share_of_alarms_is_that_of_the_rule_played_through(level, persistence):
    rng = np.random.default_rng(0)
    on, against, total = np.zeros(2000, bool), np.zeros(2000, int), 0
    for _ in range(600):
        against = np.where((rng.random(2000) < level) != on, against + 1, 0)
        on, against = on ^ (against == persistence), against % persistence
        total += on.sum()
    assert compute_share(level, persistence) == pytest.approx(total / on.size / 600, rel=0.05)


@pytest.mark.parametrize(("persistence", "num_reference"), [(2, 200), (2, 1000), (1, 1000), (3, 5000)])
def test_not_one_reference_in_a_thousand_gives_more_alarms_than_stated(persistence, num_reference):
    """Five normal deviations, the reference's noise the same in all of its windows; the rule itself is played through."""
    config = DriftConfig(persistence=persistence, false_alarm_rate=0.02)
    level = compute_level(config, num_window=500, num_reference=num_reference)
    rng, shared = np.random.default_rng(0), 500 / (500 + num_reference)
    num_references, num_windows, num_tests = 2000, 1000, len(config.tests)
    own = rng.normal(size=(num_references, num_tests)).astype(np.float32) * shared**0.5
    limit = norm.isf(level / num_tests / 2)
    on, against, share = np.zeros(num_references, bool), np.zeros(num_references, int), np.zeros(num_references)
    for _ in range(num_windows):
        deviation = own + rng.standard_normal(own.shape, np.float32) * np.float32((1 - shared) ** 0.5)
        against = np.where((np.abs(deviation) > limit).any(1) != on, against + 1, 0)
        on, against = on ^ (against == persistence), against % persistence
        share += on / num_windows
    assert (share > 0.03).sum() <= 7  # 2 expected above 0.02, and a share of 1,000 windows is uncertain
    assert share.mean() <= 0.02


def test_windows_without_drift_are_rejected_as_rarely_as_the_level_says():
    rng = np.random.default_rng(0)
    config = params_from(DriftConfig, {"false_alarm_rate": 0.1, "tests": CLOSED_FORM})
    verdicts = []
    for _ in range(10):
        reference = draw_reference(rng, 2000)
        detector = Detector(reference, config)
        verdicts += [detector.push(draw_window(rng, reference)) for _ in range(20)]
    assert 0 < np.mean([verdict.rejected for verdict in verdicts]) <= 0.09
    assert np.mean([verdict.alarm for verdict in verdicts]) <= 0.05


def test_the_configuration_names_all_tests_and_takes_others():
    assert [spec.name for spec in DriftConfig().tests] == [spec["name"] for spec in CLOSED_FORM] + [
        "mmd",
        "domain_classifier",
    ]
    config = params_from(DriftConfig, {"tests": [{"name": "psi", "params": {"num_bins": 20}}]})
    assert config.tests[0].params.num_bins == 20
    assert params_from(DriftConfig, dump_params(config)) == config
