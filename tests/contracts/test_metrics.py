"""Every registered metric: the same number for any split into batches, under any mesh, from numpy as from jax."""

import clu.metrics
import jax
import numpy as np
import pytest

from mlvlab_jax.config.fields import params_from
from mlvlab_jax.config.schema import MeshConfig
from mlvlab_jax.engine.mesh import batch_sharding, make_mesh, replicated
from mlvlab_jax.metrics.base import compute_results, merge_batch
from mlvlab_jax.plugins import METRICS, Spec

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(40, 6)).round(1).astype(np.float32)  # rounded, so that scores are tied
LABELS = {"class": RNG.integers(0, 5, 40).astype(np.int32), "labels": RNG.integers(0, 2, (40, 6)).astype(np.int32)}
ALL = np.ones(40, np.float32)


def build(name):
    entry = METRICS.entry(name)
    return METRICS.build(Spec(name, params_from(entry.params, entry.example)))


CASES = [(m, t) for m in map(build, METRICS.names()) for t in LABELS if m.target in (t, "any")]


@pytest.fixture(params=CASES, ids=[f"{metric.name}-{target}" for metric, target in CASES])
def case(request):
    """A metric, and labels that it takes."""
    metric, target = request.param
    return metric, LABELS[target]


def measure(case, cuts, mask=ALL, step=None):
    """Results over batches that end at `cuts`."""
    metric, labels = case
    step, merged = step or metric.from_model_output, {}
    for start, end in zip([0, *cuts[:-1]], cuts, strict=True):
        batch = step(logits=LOGITS[start:end], labels=labels[start:end], mask=mask[start:end])
        merged = merge_batch(merged, {metric.name: batch})
    return compute_results(merged)


def assert_equal(measured, expected, rtol=1e-6):
    assert measured.scalars.keys() == expected.scalars.keys()
    assert measured.arrays.keys() == expected.arrays.keys()
    for kind in (0, 1):
        for name, value in expected[kind].items():
            np.testing.assert_allclose(measured[kind][name], value, rtol=rtol, atol=1e-7)


def test_the_type_is_clus_and_says_what_it_gives(case):
    metric, _ = case
    assert issubclass(metric, clu.metrics.Metric)
    found = measure(case, [40])
    assert metric.name in (found.scalars if metric.result == "scalar" else found.arrays)
    assert all(0 <= value < 10 for value in found.scalars.values())


@pytest.mark.parametrize("cuts", [[13, 40], [1, 2, 39, 40]])
def test_any_split_into_batches_gives_the_number_of_the_whole(case, cuts):
    assert_equal(measure(case, cuts), measure(case, [40]))


def test_masked_examples_do_not_count(case):
    metric, labels = case
    mask = (np.arange(40) % 3 > 0).astype(np.float32)
    kept = mask == 1
    subset = metric.from_model_output(logits=LOGITS[kept], labels=labels[kept])
    assert_equal(measure(case, [20, 40], mask), compute_results({metric.name: subset}))


def test_merge_is_associative_and_empty_is_neutral(case):
    metric, labels = case
    a, b, c = (metric.from_model_output(logits=LOGITS[r], labels=labels[r]) for r in np.split(np.arange(40), [7, 30]))
    expected = compute_results({metric.name: metric.empty().merge(a).merge(b).merge(c)})
    assert_equal(compute_results({metric.name: a.merge(b.merge(c)).merge(metric.empty())}), expected)
    assert np.isnan(metric.empty().compute())


@pytest.mark.parametrize("shape", [{"data": 8}, {"data": 2, "fsdp": 2, "tensor": 2}])
def test_a_mesh_gives_the_number_of_numpy(case, shape):
    metric, _ = case
    mesh = make_mesh(MeshConfig(**shape))
    step = jax.jit(lambda batch: metric.from_model_output(**batch), out_shardings=replicated(mesh))
    mask = (np.arange(40) % 7 > 0).astype(np.float32)
    on_mesh = measure(case, [40], mask, lambda **batch: step(jax.device_put(batch, batch_sharding(mesh))))
    assert_equal(on_mesh, measure(case, [40], mask), rtol=1e-5)
