"""How often each class is predicted."""

from typing import Annotated

import numpy as np
from pydantic import Field

from mlvlab_jax.config.fields import configclass
from mlvlab_jax.monitoring.drift.counts import pool_rare
from mlvlab_jax.monitoring.drift.finding import DriftTest, Finding
from mlvlab_jax.monitoring.window import Window
from mlvlab_jax.package.reference import Reference
from mlvlab_jax.plugins import DRIFT_TESTS


@configclass
class ChiSquareParams:
    """When a difference matters."""

    min_effect: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of predictions that changed class, below which nothing is called different."""


@DRIFT_TESTS.register("chi_square", ChiSquareParams, example={"min_effect": 0.1})
def make_chi_square(params: ChiSquareParams, *, reference: Reference) -> DriftTest:
    """Test that window and reference have one prior of predicted classes; both are taken as samples.

    Rare classes are put together until at least 5 are expected of each. The effect is the total variation between the
    two priors after that, in [0, 1]: the share of predictions that would have to change class.

    References:
        K. Pearson, "On the probability that two independent distributions of frequency are really samples from the
        same population", 1911.
        Z. C. Lipton, Y.-X. Wang, A. Smola, "Detecting and correcting for label shift with black box predictors", ICML
        2018 (predicted classes show a shift of the true ones).
    """

    def measure(window: Window) -> list[Finding]:
        if len(window.prediction) == 0:
            return []
        num_classes = 1 + int(max(reference.prediction.max(), window.prediction.max()))
        counts = [np.bincount(seen, minlength=num_classes) for seen in (reference.prediction, window.prediction)]
        return [Finding("prediction", *compare(np.stack(counts)))]

    return DriftTest(measure, params.min_effect)


def compare(counts: np.ndarray) -> tuple[float, float]:
    """p-value and total variation of two rows of counts, int (2, k); 1 and 0 where there is one cell only."""
    from scipy.stats import chi2_contingency

    pooled = pool_rare(counts)
    if pooled.shape[1] == 1:
        return 1.0, 0.0
    ours, theirs = pooled / pooled.sum(1, keepdims=True)
    return float(chi2_contingency(pooled, correction=False).pvalue), float(np.abs(ours - theirs).sum() / 2)
