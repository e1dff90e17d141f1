"""Tests of a window against the reference: one file a test; the import line below is what makes it known."""

from mlvlab_jax.monitoring.drift import (  # noqa: F401
    chi_square,
    domain_classifier,
    kolmogorov_smirnov,
    mmd,
    psi,
)
