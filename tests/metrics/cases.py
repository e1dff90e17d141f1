"""Hypothesis cases of classification: logits on a coarse grid, so that ties are common, and ragged batches."""

import numpy as np
from hypothesis import strategies as st

from mlvlab_jax.config.fields import params_from
from mlvlab_jax.metrics.base import compute_results, merge_batch
from mlvlab_jax.plugins import METRICS, Spec


@st.composite
def cases(draw, *, labels="class"):
    """(logits (n k), labels, mask (n), ends of batches); some classes are absent, some rows masked."""
    n, k = draw(st.integers(1, 40)), draw(st.integers(2, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = (rng.integers(-4, 5, (n, k)) / draw(st.sampled_from([1, 2, 8]))).astype(np.float32)
    present = draw(st.integers(1, k))
    target = (
        rng.integers(0, present, n) if labels == "class" else rng.random((n, k)) < draw(st.sampled_from([0.1, 0.6]))
    )
    mask = (rng.random(n) < draw(st.sampled_from([0.6, 1.0]))).astype(np.float32)
    mask[rng.integers(n)] = 1
    cuts = sorted({n, *draw(st.lists(st.integers(1, n), max_size=4))})
    return logits, target.astype(np.int32), mask, cuts


def make(name, **params):
    return METRICS.build(Spec(name, params_from(METRICS.entry(name).params, params)))


def measure(metric, case):
    """Results of a case, batch by batch."""
    logits, labels, mask, cuts = case
    merged = {}
    for start, end in zip([0, *cuts[:-1]], cuts, strict=True):
        batch = metric.from_model_output(logits=logits[start:end], labels=labels[start:end], mask=mask[start:end])
        merged = merge_batch(merged, {metric.name: batch})
    results = compute_results(merged)
    return {**results.scalars, **results.arrays}


def kept(case):
    logits, labels, mask, _ = case
    return logits[mask > 0].astype(np.float64), labels[mask > 0]
