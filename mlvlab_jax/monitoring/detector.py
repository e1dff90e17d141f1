"""From many tests of a window to one verdict, and from verdicts in a row to an alarm."""

import logging
from typing import NamedTuple

import numpy as np

from mlvlab_jax.config.monitoring import DriftConfig
from mlvlab_jax.errors import DataError
from mlvlab_jax.monitoring.drift.finding import MIN_KNOWN
from mlvlab_jax.monitoring.window import Window
from mlvlab_jax.package.reference import Reference
from mlvlab_jax.plugins import DRIFT_TESTS

_log = logging.getLogger(__name__)

#: Observations in a window below which no verdict is given.
MIN_WINDOW = 500
#: Share of references that may give more false alarms than stated.
_UNLUCKY = 0.001
#: Windows without drift that may be called different, whatever the alarm makes of them.
_MAX_LEVEL = 0.05


class TestResult(NamedTuple):
    """What one test said of one feature.

    p_value: corrected for all tests of the window. effect: on the test's scale. floor: effect below which the test
    never rejects. rejected: the feature is called different.
    """

    test: str
    feature: str
    p_value: float
    effect: float
    floor: float
    rejected: bool


class Verdict(NamedTuple):
    """What is said of a window.

    rejected: it differs from the reference. results: of all tests. alarm: one is on after this window; `judge`, which
    knows of no other window, leaves it False.
    """

    rejected: bool
    results: tuple[TestResult, ...]
    alarm: bool = False


class Detector:
    """Calls windows different from the reference, and raises the alarm when several in a row are.

    Holm's correction holds the chance that any test rejects a window without drift to the level of `compute_level`,
    whatever the tests have to do with one another; the level is such that the alarm is on in at most `false_alarm_rate`
    of those windows. Each test has the same weight, however many features it looks at, so that one that looks at all of
    them does not mute one that looks at the embeddings.

    Args:
        reference: Of the package whose requests are watched.
        config: Rates and tests.

    Raises:
        DataError: The reference has fewer than 100 examples. With few, the tests allow for its own noise, and see less.
    """

    def __init__(self, reference: Reference, config: DriftConfig) -> None:
        import scipy.stats  # noqa: F401 - takes a second or two, for which no window should wait

        if len(reference) < MIN_KNOWN:
            raise DataError(
                f"the package's reference has {len(reference)} examples; expected at least {MIN_KNOWN} to compare "
                "requests with; package a run with a larger validation split"
            )
        if reference.split == "train":
            _log.warning(
                "drift: the reference holds training examples, of which a model is too sure; alarms may be false"
            )
        self._config, self._num_reference = config, len(reference)
        self._tests = [(spec.name, DRIFT_TESTS.build(spec, reference=reference)) for spec in config.tests]
        self._alarm, self._num_against = False, 0

    def judge(self, window: Window) -> Verdict:
        """Puts a window through all tests; always the same for the same window.

        Raises:
            DataError: Fewer than 500 observations.
        """
        if len(window.prediction) < MIN_WINDOW:
            raise DataError(
                f"a window of {len(window.prediction)} observations; expected at least {MIN_WINDOW}: in fewer, chance "
                "looks like drift"
            )
        measured = [(name, test, test.measure(window)) for name, test in self._tests]
        found = [(name, test, finding) for name, test, findings in measured for finding in findings]
        weights = np.array([1 / len(findings) for _, _, findings in measured for _ in findings])
        level = compute_level(self._config, num_window=len(window.prediction), num_reference=self._num_reference)
        p_values = correct_holm(np.array([finding.p_value for _, _, finding in found]), weights)
        results = tuple(
            TestResult(
                name,
                finding.feature,
                float(p),
                finding.effect,
                test.min_effect,
                bool(p <= level and finding.effect >= test.min_effect),
            )
            for (name, test, finding), p in zip(found, p_values, strict=True)
        )
        return Verdict(any(result.rejected for result in results), results)

    def push(self, window: Window) -> Verdict:
        """Judges the next window and raises or resolves the alarm.

        Raises:
            DataError: Fewer than 500 observations; the count of windows in a row stays as it was.
        """
        verdict = self.judge(window)
        return verdict._replace(alarm=self.count(verdict.rejected))

    def count(self, rejected: bool) -> bool:
        """Whether the alarm is on after one more verdict, such as one that an earlier process gave."""
        self._num_against = self._num_against + 1 if rejected != self._alarm else 0
        if self._num_against == self._config.persistence:
            self._alarm, self._num_against = rejected, 0
        return self._alarm


def compute_level(config: DriftConfig, *, num_window: int, num_reference: int) -> float:
    """Chance of rejecting a window without drift at which the alarm is on in `false_alarm_rate` of them at most.

    If windows were independent, `compute_share` would tell it. They are not: all are compared with one finite
    reference, and where that happens to be unusual all of them look different, so that rejections in a row are no
    coincidence. Take what each test measures for a normal deviation (in one dimension, where this is worst), of which
    the reference's own noise is a part of n / (n + m) in variance, for n and m examples in window and reference. The
    level is that at which even a reference as unlucky for some test as one in a thousand is, given which windows are
    independent, keeps to the rate; and never over 5 %, so that few windows are called different that are not.

    With the defaults and windows of 500: 0.04 % for 200 examples in the reference, 0.4 % for 1,000, 5 % for 5,000.
    """
    from scipy.optimize import brentq
    from scipy.special import ndtr, ndtri

    independent = brentq(lambda level: compute_share(level, config.persistence) - config.false_alarm_rate, 1e-6, 0.5)
    shared, num_tests = num_window / (num_window + num_reference), len(config.tests)
    unlucky, usual = -ndtri(_UNLUCKY / num_tests / 2), -ndtri(independent)
    limit = unlucky * shared**0.5 + usual * (1 - shared) ** 0.5
    return float(min(_MAX_LEVEL, independent, num_tests * 2 * ndtr(-limit)))


def compute_share(level: float, persistence: int) -> float:
    """Share of windows with the alarm on, where each is rejected with the chance `level` by itself.

    References:
        W. Feller, "An introduction to probability theory and its applications", 1968 (how long runs are waited for).
    """
    to_raise, to_resolve = (
        (1 - chance**persistence) / (chance**persistence * (1 - chance)) for chance in (level, 1 - level)
    )
    return to_resolve / (to_resolve + to_raise)


def correct_holm(p_values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """p-values such that the chance of any below a level without any effect is at most that level.

    Args:
        p_values: float64 (t), each right for itself.
        weights: float64 (t), how the level is shared out; equal ones make it Holm's first procedure.

    References:
        S. Holm, "A simple sequentially rejective multiple test procedure", 1979 (with weights in its section 3).
    """
    order = np.argsort(p_values / weights, kind="stable")
    left = np.cumsum(weights[order][::-1])[::-1]
    corrected = np.empty_like(p_values)
    corrected[order] = np.minimum(np.maximum.accumulate(p_values[order] / weights[order] * left), 1)
    return corrected
