import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy import stats

from mlvlab_jax.config.augment import ColorJitterConfig
from mlvlab_jax.data.augment import color
from tests.data.augment.test_geometry import keys, picture

ENHANCERS = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "saturation": ImageEnhance.Color,
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ENHANCERS)
def test_adjustments_equal_pillow(name, channels):
    image = picture(10, 12, channels)
    adjust = jax.jit(getattr(color, f"adjust_{name}"))
    pillow = Image.fromarray(image.squeeze())
    for factor in (0.0, 0.25, 1.0, 1.375, 3.0):
        expected = np.asarray(ENHANCERS[name](pillow).enhance(factor)).reshape(image.shape)
        np.testing.assert_array_equal(adjust(jnp.asarray(image), jnp.float32(factor)), expected)


def test_gray_equals_pillow():
    image = picture(10, 12)
    expected = np.asarray(Image.fromarray(image).convert("L"))
    np.testing.assert_array_equal(color.to_gray(jnp.asarray(image))[..., 0], expected)


def test_hue_equals_colorsys():
    edges = [[0, 0, 0], [255, 255, 255], [7, 7, 7], [255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 200], [200, 9, 200]]
    pixels = np.concatenate([picture(8, 8).reshape(-1, 3), edges]).astype(np.uint8)
    adjust = jax.jit(color.adjust_hue)
    for turns in (-0.5, -0.2, 0.0, 0.1, 0.45):
        expected = []
        for pixel in pixels / 255:
            hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
            expected.append(colorsys.hsv_to_rgb((hue + turns) % 1, saturation, value))
        out = np.asarray(adjust(jnp.asarray(pixels[None]), jnp.float32(turns)))[0]
        np.testing.assert_allclose(out, 255 * np.array(expected), atol=0.51)


@pytest.mark.parametrize("channels", [1, 3])
def test_no_strength_is_the_identity(channels):
    image = jnp.asarray(picture(6, 6, channels))
    assert color.color_jitter(image, jax.random.key(0), ColorJitterConfig()) is image
    tiny = ColorJitterConfig(brightness=1e-6, contrast=1e-6, saturation=1e-6, hue=1e-6 if channels == 3 else 0)
    np.testing.assert_array_equal(color.color_jitter(image, jax.random.key(0), tiny), image)


@pytest.mark.parametrize(("strength", "low"), [(0.4, 0.6), (1.5, 0.0)])
def test_brightness_is_uniform_around_one_and_never_negative(strength, low):
    image = jnp.full((1, 1, 1), 100, jnp.uint8)
    rule = ColorJitterConfig(brightness=strength)
    out = np.asarray(jax.vmap(lambda key: color.color_jitter(image, key, rule))(keys(2000))).ravel() + 0.5
    expected = stats.uniform(100 * low, 100 * (1 + strength - low))
    assert stats.kstest(out, expected.cdf).statistic < 0.05


def test_contrast_saturation_and_hue_are_drawn_apart():
    image = jnp.asarray(picture(6, 6))
    single = [{"contrast": 0.5}, {"saturation": 0.5}, {"hue": 0.2}]
    outs = [np.asarray(color.color_jitter(image, jax.random.key(5), ColorJitterConfig(**rule))) for rule in single]
    both = color.color_jitter(image, jax.random.key(5), ColorJitterConfig(contrast=0.5, saturation=0.5))
    factor = color._draw(jax.random.split(jax.random.key(5), 4)[2], 0.5, 1.5)
    np.testing.assert_array_equal(both, color.adjust_saturation(jnp.asarray(outs[0]), factor))
    assert not any((a == b).all() for a, b in ((outs[0], outs[1]), (outs[1], outs[2])))
