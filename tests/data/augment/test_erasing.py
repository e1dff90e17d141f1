import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from mlvlab_jax.config.augment import ErasingConfig
from mlvlab_jax.data.augment.erasing import erase
from tests.data.augment.test_geometry import keys


def erase_many(rule, count=1000, size=20):
    image = jnp.full((size, size, 2), 7.0)
    return np.asarray(jax.jit(jax.vmap(lambda key: erase(image, key, rule)))(keys(count)))


def test_a_share_of_the_images_loses_a_rectangle():
    out = erase_many(ErasingConfig(probability=0.25, area=(0.1, 0.3), fill="mean"))
    gone = out == 0
    assert ((out == 7) | gone).all()
    assert (gone[..., 0] == gone[..., 1]).all()
    hit = gone.any((1, 2, 3))
    assert abs(hit.mean() - 0.25) < 0.045  # 3.3 standard deviations
    rows, columns = gone[hit].any((2, 3)).sum(1), gone[hit].any((1, 3)).sum(1)
    np.testing.assert_array_equal(gone[hit][..., 0].sum((1, 2)), rows * columns)
    assert ((rows * columns >= 0.08 * 400) & (rows * columns <= 0.33 * 400)).all()


def test_noise_is_standard_normal_and_new_for_each_value():
    out = erase_many(ErasingConfig(probability=1.0), count=200)
    noise = out[out != 7]
    assert len(np.unique(noise)) > 0.99 * len(noise) > 1000
    assert stats.kstest(noise, "norm").pvalue > 1e-3


@pytest.mark.parametrize(
    "rule", [ErasingConfig(probability=0.0), ErasingConfig(probability=1.0, area=(1.0, 1.0), ratio=(3.0, 3.3))]
)
def test_without_chance_or_room_nothing_is_erased(rule):
    assert (erase_many(rule, count=50) == 7).all()
