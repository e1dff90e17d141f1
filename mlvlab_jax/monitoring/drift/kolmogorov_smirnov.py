"""The largest gap between two distribution functions, feature by feature."""

from typing import Annotated

import numpy as np
from pydantic import Field

from mlvlab_jax.config.fields import configclass
from mlvlab_jax.monitoring.drift.finding import DriftTest, Finding, each_feature
from mlvlab_jax.monitoring.window import Window
from mlvlab_jax.package.reference import Reference
from mlvlab_jax.plugins import DRIFT_TESTS


@configclass
class KolmogorovSmirnovParams:
    """When the gap matters."""

    min_effect: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Gap below which nothing is called different: 0.05 moves one image in twenty across some threshold."""


@DRIFT_TESTS.register("kolmogorov_smirnov", KolmogorovSmirnovParams, example={"min_effect": 0.1})
def make_kolmogorov_smirnov(params: KolmogorovSmirnovParams, *, reference: Reference) -> DriftTest:
    """Two-sample test of each feature; the effect is the largest gap between the distribution functions, in [0, 1].

    Many equal values, such as the sizes of files, make the p-value larger than it need be, never smaller.

    References:
        N. V. Smirnov, "Table for estimating the goodness of fit of empirical distributions", 1948.
        G. E. Noether, "Note on the Kolmogorov statistic in the discrete case", 1963.
    """

    def measure(window: Window) -> list[Finding]:
        return [Finding(name, *compare(ours, theirs)) for name, ours, theirs in each_feature(reference, window)]

    return DriftTest(measure, params.min_effect)


def compare(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """p-value and largest gap of two samples, (m) and (n)."""
    from scipy.stats import ks_2samp

    # The exact distribution takes seconds for some thousand values and differs by percents of the p-value.
    found = ks_2samp(ours, theirs, method="asymp")
    return float(found.pvalue), float(found.statistic)
