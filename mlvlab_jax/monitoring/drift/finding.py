"""What a drift test is, and what it finds."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from mlvlab_jax.monitoring.window import Window
from mlvlab_jax.package.reference import Reference

#: Known values of a feature, in the window as in the reference, below which it is left out.
MIN_KNOWN = 100


class Finding(NamedTuple):
    """How one feature differs.

    p_value: chance of a difference as large where there is none, of this feature alone, in [0, 1]. effect: how large
    the difference is, >= 0, on the test's own scale.
    """

    feature: str
    p_value: float
    effect: float


class DriftTest(NamedTuple):
    """A test that knows its reference.

    measure: from a window to a finding for each feature that both have. min_effect: below it nothing is called
    different, however small the p-value.
    """

    measure: Callable[[Window], list[Finding]]
    min_effect: float


def each_feature(reference: Reference, window: Window) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name and finite values, in the reference (m) and in the window (n), of each feature known in both."""
    for name, known in reference.values.items():
        if name in window.values:
            ours, theirs = (values[np.isfinite(values)] for values in (known, window.values[name]))
            if min(len(ours), len(theirs)) >= MIN_KNOWN:
                yield name, ours, theirs
