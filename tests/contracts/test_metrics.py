"""Every registered metric equals numpy on the whole set, whatever the split into batches, and honours the mask."""

import numpy as np
import pytest
from scipy.special import log_softmax

from mlvlab_jax.config.fields import params_from
from mlvlab_jax.plugins import METRICS, Spec

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(40, 6)).astype(np.float32)
LABELS = RNG.integers(0, 6, 40).astype(np.int32)


def reference(name, logits, labels):
    order = np.argsort(-logits, axis=1)
    if name == "loss":
        return -log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(labels)), labels].mean()
    if name == "accuracy":
        return (order[:, 0] == labels).mean()
    return (order[:, : int(name[4:])] == labels[:, None]).any(axis=1).mean()


@pytest.fixture(params=METRICS.names())
def metric(request):
    entry = METRICS.entry(request.param)
    return METRICS.build(Spec(request.param, params_from(entry.params, entry.example)))


@pytest.mark.parametrize("cuts", [[40], [13, 40], [1, 2, 39, 40]])
def test_any_split_into_batches_equals_numpy_on_all(metric, cuts):
    total = np.zeros(2)
    for start, end in zip([0, *cuts[:-1]], cuts, strict=True):
        ones = np.ones(end - start, np.float32)
        total += np.array([float(x) for x in metric.update(LOGITS[start:end], LABELS[start:end], ones)])
    np.testing.assert_allclose(total[0] / total[1], reference(metric.name, LOGITS, LABELS), rtol=1e-6)


def test_masked_examples_do_not_count(metric):
    mask = (np.arange(40) % 3 > 0).astype(np.float32)
    value, count = metric.update(LOGITS, LABELS, mask)
    kept = mask == 1
    np.testing.assert_allclose(value / count, reference(metric.name, LOGITS[kept], LABELS[kept]), rtol=1e-6)


def test_equal_logits_are_no_right_guess_for_top_k():
    metric = METRICS.build(Spec("top_k", params_from(METRICS.entry("top_k").params, {"k": 2})))
    value, _ = metric.update(np.zeros((1, 6), np.float32), np.zeros(1, np.int32), np.ones(1, np.float32))
    assert value == 0
