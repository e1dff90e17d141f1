import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from mlvlab_jax.config.augment import AugmentConfig, CutmixConfig, MixupConfig
from mlvlab_jax.data.augment.mix import mix
from tests.data.augment.test_geometry import keys


def mix_many(count=2000, **rules):
    """Images of 1 mixed with images of 0: what is left of an even example is its own weight."""
    image = jnp.broadcast_to((jnp.arange(count) % 2 == 0).astype(jnp.float32)[:, None, None, None], (count, 10, 14, 1))
    label = jnp.arange(count)
    mixed = jax.jit(mix, static_argnums=3)(image, label, keys(count), AugmentConfig(**rules))
    return (np.asarray(value) for value in mixed)


def check_labels(label, other, weight, own):
    """Own weights of the even examples against the labels of all."""
    count = len(label)
    before = (np.arange(count) - 1) % count
    assert ((weight >= 0.5) & (weight <= 1)).all()
    own_label = np.where(weight == 0.5, label, np.where(own >= 0.5, np.arange(count), before))
    np.testing.assert_array_equal(label[::2], own_label[::2])
    np.testing.assert_array_equal(label + other, np.arange(count) + before)
    np.testing.assert_allclose(weight[::2], np.maximum(own, 1 - own)[::2], atol=1e-6)


def test_mixup_weights_are_beta_and_the_same_in_image_and_label():
    image, label, other, weight = mix_many(mixup=MixupConfig(alpha=0.8))
    own = image.mean((1, 2, 3))
    assert np.ptp(image, (1, 2, 3)).max() == 0
    check_labels(label, other, weight, own)
    np.testing.assert_allclose(weight[1::2], np.maximum(own, 1 - own)[1::2], atol=1e-6)
    assert stats.kstest(own[::2], stats.beta(0.8, 0.8).cdf).pvalue > 1e-3


def test_cutmix_pastes_a_rectangle_and_weighs_by_area():
    image, label, other, weight = mix_many(cutmix=CutmixConfig(alpha=1.0))
    pasted = image[::2, :, :, 0] == 0
    assert ((image == 0) | (image == 1)).all()
    rows, columns = pasted.any(2).sum(1), pasted.any(1).sum(1)
    np.testing.assert_array_equal(pasted.sum((1, 2)), rows * columns)
    check_labels(label, other, weight, image.mean((1, 2, 3)))
    assert stats.ks_2samp(pasted.mean((1, 2)), simulated_areas(5000)).pvalue > 1e-3


def simulated_areas(count):
    """Pasted share of 10 x 14 pixels by the paper's algorithm, one by one."""
    rng, areas = np.random.default_rng(0), []
    for wanted in rng.beta(1.0, 1.0, count):
        share = 1.0
        for size in (10, 14):
            half, centre = int(size * np.sqrt(1 - wanted) / 2), rng.integers(size)
            share *= (min(centre + half, size) - max(centre - half, 0)) / size
        areas.append(share)
    return areas


def test_mixup_and_cutmix_take_turns():
    image, *_ = mix_many(mixup=MixupConfig(), cutmix=CutmixConfig(), mix_switch_probability=0.3, mix_probability=0.5)
    even = image[::2]
    cut = np.ptp(even, (1, 2, 3)) == 1
    blended = (np.ptp(even, (1, 2, 3)) == 0) & (even[:, 0, 0, 0] < 1)
    assert abs(blended.mean() - 0.35) < 0.05
    assert 0.08 < cut.mean() < 0.2  # 0.15, less those whose rectangle is empty or everything


def test_probability_zero_is_the_identity():
    image, label, _, weight = mix_many(count=8, mixup=MixupConfig(), cutmix=CutmixConfig(), mix_probability=0.0)
    np.testing.assert_array_equal(image[:, 0, 0, 0], [1, 0, 1, 0, 1, 0, 1, 0])
    np.testing.assert_array_equal(label, np.arange(8))
    assert (weight == 1).all()


def test_several_labels_are_mixed_like_class_numbers():
    label = jnp.arange(64) % 5
    rules = AugmentConfig(mixup=MixupConfig(alpha=0.8))
    image = jnp.ones((64, 2, 2, 1))
    single = mix(image, label, keys(64), rules)
    several = mix(image, jnp.eye(5, dtype=jnp.uint8)[label], keys(64), rules)
    np.testing.assert_array_equal(several.label.argmax(-1), single.label)
    np.testing.assert_array_equal(several.other_label.argmax(-1), single.other_label)
    np.testing.assert_array_equal(several.label_weight, single.label_weight)
