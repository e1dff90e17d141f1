import subprocess
import sys

import clu.metrics
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlvlab_jax.errors import ConfigError
from mlvlab_jax.metrics.base import compute_results, make_counted, make_metrics, merge_batch
from mlvlab_jax.metrics.classification import NoParams, TopKParams, mean
from mlvlab_jax.plugins import Spec


def test_two_metrics_of_one_name_are_refused():
    specs = [Spec("top_k", TopKParams(k=2)), Spec("top_k", TopKParams(k=3))]
    assert list(make_metrics(specs)) == ["top_2", "top_3"]
    with pytest.raises(ConfigError, match="'loss' is measured twice"):
        make_metrics([Spec("loss", NoParams())] * 2)


def test_counts_on_the_host_pass_the_end_of_int32_and_of_float32():
    big = make_counted(
        "big",
        measure=lambda logits, labels, kept: {"sum": np.float32(2**24), "count": np.int32(2**30)},
        finish=lambda totals: totals,
    )
    batch, merged = big.from_model_output(logits=np.zeros((1, 2)), labels=np.zeros(1, int)), {}
    small = big(totals={"sum": np.float32(1), "count": np.int32(1)})
    for metric in (batch, batch, batch, small):
        merged = merge_batch(merged, {"big": metric})
    assert merged["big"].totals == {"sum": 3 * 2**24 + 1, "count": 3 * 2**30 + 1}
    assert big.empty().merge(batch).merge(batch).merge(small).totals == {"sum": 2**25 + 1, "count": 2**31 + 1}


def test_merging_in_jit_stays_on_the_device_in_32_bits():
    metric = make_metrics([Spec("accuracy", NoParams())])["accuracy"]
    logits, labels = jnp.eye(4), jnp.array([0, 1, 2, 2])

    @jax.jit
    def both(logits, labels):
        one = metric.from_model_output(logits=logits, labels=labels)
        return metric.empty().merge(one).merge(one)

    merged = both(logits, labels)
    assert merged.totals["count"].dtype == jnp.int32
    assert merged.compute() == 0.75


@flax.struct.dataclass
class Margin(clu.metrics.Metric):
    """A metric as CLU's documentation writes one."""

    total: jax.Array
    count: jax.Array

    @classmethod
    def from_model_output(cls, *, logits, mask, **_):
        return cls(total=((logits.max(-1) - logits.min(-1)) * mask).sum(), count=mask.sum())

    def merge(self, other):
        return type(self)(total=self.total + other.total, count=self.count + other.count)

    def compute(self):
        return self.total / self.count


@pytest.mark.parametrize("metric", [Margin, clu.metrics.Accuracy])
def test_a_plain_clu_metric_works_and_its_sums_grow_to_64_bits(metric):
    logits = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    batch = {"logits": logits, "labels": logits.argmax(-1) * 1, "mask": np.array([1.0, 1, 1, 1, 1, 0], np.float32)}
    merged = {}
    for _ in range(2):
        merged = merge_batch(merged, {"own": jax.jit(lambda batch: metric.from_model_output(**batch))(batch)})
    expected = 1 if metric is clu.metrics.Accuracy else np.ptp(logits[:5], axis=1).mean()
    assert compute_results(merged).scalars["own"] == pytest.approx(expected, rel=1e-6)
    assert np.asarray(merged["own"].count).dtype.itemsize == 8


def test_results_are_parted_into_numbers_and_arrays():
    both = make_counted(
        "both",
        measure=lambda logits, labels, kept: {"sum": kept.sum(), "count": kept.sum()},
        finish=lambda totals: {"both": mean(totals), "each": np.arange(2)},
    )
    found = compute_results({"both": both.from_model_output(logits=np.zeros((2, 2)), labels=np.zeros(2, int))})
    assert found.scalars == {"both": 1.0}
    assert found.arrays["each"].tolist() == [0, 1]


def test_declaring_metrics_imports_neither_jax_nor_clu():
    code = "import sys, mlvlab_jax.metrics; print([m for m in ('jax', 'clu', 'flax', 'sklearn') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
    code = "import sys, mlvlab_jax.metrics.base; print('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
