"""The population stability index, feature by feature."""

from typing import Annotated

import numpy as np
from pydantic import Field

from mlvlab_jax.config.fields import configclass
from mlvlab_jax.monitoring.drift.counts import pool_rare
from mlvlab_jax.monitoring.drift.finding import DriftTest, Finding, each_feature
from mlvlab_jax.monitoring.window import Window
from mlvlab_jax.package.reference import Reference
from mlvlab_jax.plugins import DRIFT_TESTS


@configclass
class PsiParams:
    """Bins, and when a difference matters."""

    num_bins: Annotated[int, Field(ge=2, le=100)] = 10
    """Bins of equally many examples of the reference; fewer where values repeat."""
    min_effect: Annotated[float, Field(ge=0)] = 0.1
    """Index below which nothing is called different; by custom 0.1 is a moderate change and 0.25 a large one."""


@DRIFT_TESTS.register("psi", PsiParams, example={"num_bins": 5})
def make_psi(params: PsiParams, *, reference: Reference) -> DriftTest:
    """Index of each feature over bins of the reference; the effect is the index, >= 0.

    Without drift the index over (1/n + 1/m), for n and m examples in window and reference, is distributed as chi-square
    with one degree of freedom less than bins: the p-value, in place of a rule of thumb that forgets how many there are.

    References:
        B. Yurdakul, "Statistical properties of population stability index", 2018.
    """

    def measure(window: Window) -> list[Finding]:
        features = each_feature(reference, window)
        return [Finding(name, *compare(ours, theirs, num_bins=params.num_bins)) for name, ours, theirs in features]

    return DriftTest(measure, params.min_effect)


def compare(ours: np.ndarray, theirs: np.ndarray, *, num_bins: int) -> tuple[float, float]:
    """p-value and index of the reference's and the window's values, (m) and (n); 1 and 0 where all are in one bin.

    A half is added to every count, so that an empty bin has a logarithm.
    """
    from scipy.stats import chi2

    edges = np.unique(np.quantile(ours, np.linspace(0, 1, num_bins + 1)[1:-1]))
    binned = [np.bincount(np.searchsorted(edges, v), minlength=len(edges) + 1) for v in (ours, theirs)]
    counts = pool_rare(np.stack(binned)) + 0.5
    share, other = counts / counts.sum(1, keepdims=True)
    index = float(((other - share) * np.log(other / share)).sum())
    num_free = counts.shape[1] - 1
    return float(chi2.sf(index / (1 / len(ours) + 1 / len(theirs)), num_free)) if num_free else 1.0, index
