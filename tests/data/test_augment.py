import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlvlab_jax.config.schema import AugmentConfig, PipelineConfig
from mlvlab_jax.data.augment import augment, normalize

KEY = jax.random.key(0)


def images(count, size=6):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 1), np.uint8)


def test_normalize_equals_numpy():
    image = images(3)
    config = PipelineConfig(mean=(0.3,), std=(0.2,))
    expected = (image.astype(np.float64) / 255 - 0.3) / 0.2
    np.testing.assert_allclose(normalize(jnp.asarray(image), config), expected, atol=1e-5)


def test_no_augmentation_is_the_identity():
    image = jnp.asarray(images(4))
    ids = jnp.arange(4)
    assert augment(image, ids, ids, KEY, AugmentConfig()) is image


def test_each_crop_is_a_window_of_the_padded_image_and_all_windows_are_equally_likely():
    count, pad = 4000, 1
    image = np.repeat(images(1), count, axis=0)
    config = AugmentConfig(crop_padding=pad)
    out = np.asarray(augment(jnp.asarray(image), jnp.arange(count), jnp.zeros(count, jnp.int32), KEY, config))
    padded = np.pad(image[0], ((pad, pad), (pad, pad), (0, 0)))
    windows = np.stack([padded[i : i + 6, j : j + 6] for i in range(3) for j in range(3)])
    matches = (out[:, None] == windows[None]).all(axis=(2, 3, 4))
    assert (matches.sum(axis=1) == 1).all()
    counts = matches.sum(axis=0)
    chi_square = ((counts - count / 9) ** 2 / (count / 9)).sum()
    assert chi_square < 26.1  # 0.999 quantile with 8 degrees of freedom


def test_half_of_the_images_are_mirrored():
    count = 4000
    image = np.repeat(images(1), count, axis=0)
    config = AugmentConfig(horizontal_flip=True)
    out = np.asarray(augment(jnp.asarray(image), jnp.arange(count), jnp.zeros(count, jnp.int32), KEY, config))
    mirrored = (out == image[:, :, ::-1]).all(axis=(1, 2, 3))
    assert ((out == image).all(axis=(1, 2, 3)) | mirrored).all()
    assert abs(mirrored.mean() - 0.5) < 0.03


@pytest.mark.parametrize("position", [0, 3])
def test_an_examples_changes_depend_on_its_id_and_epoch_only(position):
    config = AugmentConfig(crop_padding=2, horizontal_flip=True)
    image = images(4)
    ids, epochs = jnp.array([5, 6, 7, 8]), jnp.array([0, 0, 1, 1])
    together = augment(jnp.asarray(image), ids, epochs, KEY, config)
    one = slice(position, position + 1)
    alone = augment(jnp.asarray(image[one]), ids[one], epochs[one], KEY, config)
    np.testing.assert_array_equal(together[one], alone)


def test_another_epoch_changes_the_crops():
    config = AugmentConfig(crop_padding=2, horizontal_flip=True)
    image, ids = jnp.asarray(images(32)), jnp.arange(32)
    first, second = (augment(image, ids, jnp.full(32, epoch), KEY, config) for epoch in (0, 1))
    assert (np.asarray(first) != np.asarray(second)).any(axis=(1, 2, 3)).mean() > 0.8
