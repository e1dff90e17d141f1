"""The distance between two clouds of embeddings."""

from typing import Annotated

import numpy as np
from pydantic import Field

from mlvlab_jax.config.fields import configclass
from mlvlab_jax.monitoring.drift.finding import MIN_KNOWN, DriftTest, Finding
from mlvlab_jax.monitoring.drift.permutations import judge, pool
from mlvlab_jax.monitoring.window import Window
from mlvlab_jax.package.reference import Reference
from mlvlab_jax.plugins import DRIFT_TESTS


@configclass
class MmdParams:
    """How closely to look, and when a distance matters."""

    num_permutations: Annotated[int, Field(ge=100)] = 500
    """Draws without drift that the distance is judged by."""
    max_examples: Annotated[int, Field(ge=500)] = 2000
    """Examples of the window, and of the reference, that are compared; time grows with the square."""
    min_effect: Annotated[float, Field(ge=0, le=2)] = 0.002
    """Squared distance below which nothing is called different."""


@DRIFT_TESTS.register("mmd", MmdParams, example={"num_permutations": 200})
def make_mmd(params: MmdParams, *, reference: Reference) -> DriftTest:
    """Maximum mean discrepancy of the projected embeddings, judged by permutations.

    The effect is the unbiased estimate of its square, in [0, 2], negative ones as 0. The kernel is Gaussian with the
    median distance between examples as its bandwidth.

    References:
        A. Gretton, K. M. Borgwardt, M. J. Rasch, B. Schölkopf, A. Smola, "A kernel two-sample test", 2012.
    """

    def measure(window: Window) -> list[Finding]:
        theirs = window.embedding[np.isfinite(window.embedding).all(1)]
        if len(theirs) < MIN_KNOWN:
            return []
        rows, in_window = pool(
            reference.embedding,
            theirs,
            num_permutations=params.num_permutations,
            max_examples=params.max_examples,
        )
        kernel = compute_kernel(rows)
        p_value, squared = judge(lambda labels: compute_mmd(kernel, labels), in_window)
        return [Finding("embedding", p_value, max(0.0, squared))]

    return DriftTest(measure, params.min_effect)


def compute_kernel(rows: np.ndarray) -> np.ndarray:
    """Gaussian kernel between all rows, float32 (n p) to (n n), its diagonal 0."""
    squares = (rows**2).sum(1)
    distance = np.maximum(squares[:, None] + squares - 2 * rows @ rows.T, 0)
    np.fill_diagonal(distance, 0)
    some = distance[::5, ::5]
    kernel = np.exp(-distance / (2 * (np.median(some) or some.mean() or 1)))
    np.fill_diagonal(kernel, 0)
    return kernel


def compute_mmd(kernel: np.ndarray, in_window: np.ndarray) -> np.ndarray:
    """Unbiased squared MMD between the rows in the window and the others, once for each way to tell them apart.

    Args:
        kernel: Symmetric, its diagonal 0, float32 (n n).
        in_window: Equally many in each row, bool (r n).

    Returns:
        float32 (r).
    """
    chosen = in_window.astype(kernel.dtype)
    n, m = int(in_window[0].sum()), int((~in_window[0]).sum())
    within = ((chosen @ kernel) * chosen).sum(1)
    across = chosen @ kernel.sum(1) - within
    others = kernel.sum() - 2 * across - within
    return within / (n * (n - 1)) + others / (m * (m - 1)) - 2 * across / (n * m)
