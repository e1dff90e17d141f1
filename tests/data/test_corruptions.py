"""Corrupted images: functions of the example alone, worse with severity, and as the originals where there is a library."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, stats
from sklearn.datasets import load_sample_image

from mlvlab_jax.data.corruptions import CORRUPTIONS, NUM_SEVERITIES, corrupt
from mlvlab_jax.data.corruptions.blur import blur, filter_image, zoom
from mlvlab_jax.data.corruptions.digital import jpeg_compression, pixelate
from mlvlab_jax.data.corruptions.noise import shot_noise

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def photo():
    whole = Image.fromarray(load_sample_image("flower.jpg")).crop((100, 0, 527, 427))
    return np.asarray(whole.resize((64, 64), Image.Resampling.BICUBIC))


def apply(image, name, severity, ids=(3,)):
    images = jnp.asarray(np.stack([image] * len(ids)))
    return np.asarray(corrupt(images, jnp.array(ids), jnp.int32(severity), name=name))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_is_a_function_of_the_example_and_worse_with_severity(name, photo):
    found = [apply(photo, name, severity) for severity in range(1, NUM_SEVERITIES + 1)]
    assert all(images.shape == (1, 64, 64, 3) and images.dtype == np.uint8 for images in found)
    far = [np.abs(images[0].astype(int) - photo).mean() for images in found]
    assert far[0] > 0.5
    # The originals of the others change their kind: waves from large to small, flakes to a storm, fog to a finer one.
    changing = ("elastic_transform", "snow", "glass_blur", "frost", "fog")
    assert name in changing or far == sorted(far)
    together = apply(photo, name, 2, ids=(5, 3, 9))
    np.testing.assert_array_equal(together[1], apply(photo, name, 2)[0])
    random = name not in ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")
    assert random == bool((together[0] != together[1]).any())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_small_and_grey_images_are_corrupted(name):
    image = np.random.default_rng(0).integers(0, 256, (28, 20, 1), np.uint8)
    found = apply(image, name, 5)
    assert found.shape == (1, 28, 20, 1)
    assert (found[0] != image).mean() > 0.1


@pytest.mark.parametrize(("value", "strength"), [(255, 60), (128, 12), (3, 3), (0, 60)])
def test_photons_are_counted_as_poisson_says(value, strength):
    image = jnp.full((300, 300, 1), value / 255)
    counts = np.asarray(shot_noise(image, jax.random.key(0), jnp.float32(strength)) * strength).round().astype(int)
    found = np.bincount(counts.ravel(), minlength=129)[:129] / counts.size
    expected = stats.poisson.pmf(np.arange(129), value / 255 * strength)
    np.testing.assert_allclose(found, expected, atol=5 * np.sqrt(0.25 / counts.size))
    assert counts.mean() == pytest.approx(value / 255 * strength, rel=0.01, abs=1e-6)


def test_noise_has_the_strength_it_says():
    grey = np.full((200, 200, 1), 128, np.uint8)
    assert apply(grey, "gaussian_noise", 1).std() / 255 == pytest.approx(0.08, rel=0.03)
    assert apply(grey, "shot_noise", 2).std() / 255 == pytest.approx(np.sqrt(128 / 255 / 25), rel=0.03)
    hit = apply(grey, "impulse_noise", 4)
    assert [(hit == 0).mean(), (hit == 255).mean()] == pytest.approx([0.085, 0.085], rel=0.06)


@pytest.mark.parametrize("quality", [25, 10])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpeg_is_that_of_pillow(quality, mode, photo):
    picture = Image.fromarray(photo).convert(mode)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    expected = np.asarray(Image.open(buffer), np.float32).reshape(64, 64, -1)
    image = np.asarray(picture, np.float32).reshape(64, 64, -1) / 255
    found = np.clip(np.asarray(jpeg_compression(jnp.asarray(image), KEY, jnp.float32(quality))) * 255, 0, 255)
    lost = np.abs(expected - image * 255).mean()
    assert np.abs(found - expected).mean() < 0.25 * lost


def test_pixels_are_those_of_pillow(photo):
    small = Image.fromarray(photo).resize((32, 32), Image.Resampling.BOX)
    expected = np.asarray(small.resize((64, 64), Image.Resampling.NEAREST), int)
    found = np.asarray(pixelate(jnp.asarray(photo / np.float32(255)), KEY, jnp.float32(0.5))) * 255
    assert np.abs(found - expected).max() < 1.01  # it rounds after each of its two passes


def test_blur_and_zoom_are_those_of_scipy(photo):
    image = jnp.asarray(photo / np.float32(255))
    kernel = np.random.default_rng(0).uniform(size=(5, 5)).astype(np.float32)
    planes = [ndimage.correlate(np.asarray(image[..., c]), kernel, mode="nearest") for c in range(3)]
    np.testing.assert_allclose(filter_image(image, jnp.asarray(kernel)), np.stack(planes, -1), atol=1e-4)
    inside = np.asarray(blur(image, jnp.float32(2)))[12:-12, 12:-12]
    expected = ndimage.gaussian_filter(np.asarray(image), (2, 2, 0), truncate=8)[12:-12, 12:-12]
    np.testing.assert_allclose(inside, expected, atol=1e-4)
    larger = np.asarray(zoom(image, jnp.float32(2.0)))
    np.testing.assert_allclose(
        larger[31, 31],
        image[31, 31] * 0.75 * 0.75 + image[32, 32] * 0.0625 + (image[31, 32] + image[32, 31]) * 0.1875,
        atol=1e-5,
    )
