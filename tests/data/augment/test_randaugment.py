import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from mlvlab_jax.config.augment import RandAugmentConfig
from mlvlab_jax.data.augment.randaugment import OPS, apply_op, randaugment, solarize, three_augment
from tests.data.augment.test_geometry import keys, picture

HEIGHT, WIDTH = 24, 30
WITHOUT_MAGNITUDE = ("autocontrast", "equalize")
apply = jax.jit(apply_op, static_argnums=3)


def warp(image, *coefficients):
    return image.transform(image.size, Image.Transform.AFFINE, coefficients)


def by_pillow(name, image, magnitude, sign):
    factor = round(1024 * (1 + sign * 0.09 * magnitude)) / 1024
    move = sign * 15 / 331 * magnitude
    return {
        "identity": lambda: image,
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "rotate": lambda: image.rotate(sign * 3 * magnitude),
        "solarize": lambda: ImageOps.solarize(image, 256 * (1 - magnitude / 10)),
        "color": lambda: ImageEnhance.Color(image).enhance(factor),
        "posterize": lambda: ImageOps.posterize(image, 8 - round(0.4 * magnitude)),
        "contrast": lambda: ImageEnhance.Contrast(image).enhance(factor),
        "brightness": lambda: ImageEnhance.Brightness(image).enhance(factor),
        "sharpness": lambda: ImageEnhance.Sharpness(image).enhance(factor),
        "shear_x": lambda: warp(image, 1, sign * 0.03 * magnitude, 0, 0, 1, 0),
        "shear_y": lambda: warp(image, 1, 0, 0, sign * 0.03 * magnitude, 1, 0),
        "translate_x": lambda: warp(image, 1, 0, int(move * WIDTH), 0, 1, 0),
        "translate_y": lambda: warp(image, 1, 0, 0, 0, 1, int(move * HEIGHT)),
    }[name]()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OPS)
def test_an_operation_equals_pillows(name, channels):
    image = picture(HEIGHT, WIDTH, channels) // 4 * 3 + 30  # leaves autocontrast something to do
    for magnitude in (4.0, 9.0):
        for backwards, sign in enumerate((1, -1)):
            out = apply(jnp.asarray(image), jnp.int32(OPS.index(name)), jnp.int32(backwards), magnitude)
            expected = np.asarray(by_pillow(name, Image.fromarray(image.squeeze()), magnitude, sign), int)
            assert np.abs(np.asarray(out, int) - expected.reshape(image.shape)).max() <= 1
            assert (np.asarray(out) != expected.reshape(image.shape)).mean() < 0.02
            changes = name != "identity" and (name, channels) != ("color", 1)
            assert (np.asarray(out) != image).any() == changes


@pytest.mark.parametrize("name", [name for name in OPS if name not in WITHOUT_MAGNITUDE])
def test_magnitude_zero_is_the_identity(name):
    image = jnp.asarray(picture(HEIGHT, WIDTH))
    np.testing.assert_array_equal(apply(image, jnp.int32(OPS.index(name)), jnp.int32(0), 0.0), image)


@pytest.mark.parametrize("name", WITHOUT_MAGNITUDE)
def test_a_flat_image_and_a_full_range_stay(name):
    flat = np.full((HEIGHT, WIDTH, 3), 77, np.uint8)
    op = jnp.int32(OPS.index(name))
    np.testing.assert_array_equal(apply(jnp.asarray(flat), op, jnp.int32(0), 9.0), flat)
    two = flat.copy()
    two[:5], two[5:10] = 0, 255
    expected = np.asarray(by_pillow(name, Image.fromarray(two), 9.0, 1))
    np.testing.assert_array_equal(apply(jnp.asarray(two), op, jnp.int32(0), 9.0), expected)


def test_operations_and_directions_are_equally_likely_and_follow_one_another():
    image, count = jnp.asarray(picture(18, 18) // 4 * 3 + 20), 2800
    every = jax.jit(jax.vmap(lambda op, back: apply_op(image, op, back, 9.0)))
    ops, backs = np.divmod(np.arange(28), 2)
    outcomes = np.asarray(every(jnp.asarray(ops), jnp.asarray(backs)))
    kinds, kind_of = np.unique(outcomes.reshape(28, -1), axis=0, return_inverse=True)
    assert len(kinds) == 28 - 5  # identity, autocontrast, equalize, solarize and posterize have one direction
    run = jax.jit(jax.vmap(lambda key: randaugment(image, key, RandAugmentConfig(num_ops=1))))
    drawn = np.asarray(run(keys(count))).reshape(count, -1)
    matches = (drawn[:, None] == kinds[None]).all(2)
    assert (matches.sum(1) == 1).all()
    expected = np.bincount(kind_of.ravel()) * count / 28
    chi_square = ((matches.sum(0) - expected) ** 2 / expected).sum()
    assert chi_square < 48.3  # 0.999 quantile with 22 degrees of freedom
    twice = randaugment(image, jax.random.key(7), RandAugmentConfig(num_ops=2, magnitude=5.0))
    step_by_step = image
    for bits in np.asarray(jax.random.bits(jax.random.key(7), (2,))):
        step_by_step = apply(step_by_step, jnp.int32((bits >> 1) % 14), jnp.int32(bits & 1), 5.0)
    np.testing.assert_array_equal(twice, step_by_step)


def test_solarize_equals_pillow():
    image = picture(8, 8)
    np.testing.assert_array_equal(solarize(jnp.asarray(image)), np.asarray(ImageOps.solarize(Image.fromarray(image))))


def test_three_augment_greys_solarises_or_blurs_a_third_each():
    image, count = picture(12, 12), 1500
    out = np.asarray(jax.jit(jax.vmap(lambda key: three_augment(jnp.asarray(image), key)))(keys(count)))
    grey = np.asarray(Image.fromarray(image).convert("L"))[..., None].repeat(3, 2)
    is_grey, is_solarised = (
        (out == other).all((1, 2, 3)) for other in (grey, np.where(image < 128, image, 255 - image))
    )
    assert abs(is_grey.sum() - count / 3) < 60  # 3.3 standard deviations
    assert abs(is_solarised.sum() - count / 3) < 60
    rest = out[~is_grey & ~is_solarised].astype(float)
    roughness = np.abs(np.diff(rest, axis=2)).mean((1, 2, 3))
    assert (roughness <= np.abs(np.diff(image.astype(float), axis=1)).mean()).all()
    assert np.ptp(roughness) > 5


def test_three_augment_leaves_grey_images_grey():
    image, count = picture(12, 12, 1), 300
    out = np.asarray(jax.jit(jax.vmap(lambda key: three_augment(jnp.asarray(image), key)))(keys(count)))
    assert out.shape == (count, 12, 12, 1)
    assert abs((out == image).all((1, 2, 3)).mean() - 1 / 3) < 0.15  # greyed, or hardly blurred
