import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from scipy import ndimage, stats

from mlvlab_jax.config.augment import RandomResizedCropConfig
from mlvlab_jax.data.augment.boxes import box_mask, random_box
from mlvlab_jax.data.augment.geometry import random_resized_crop
from mlvlab_jax.data.augment.resample import blur_weights, resample, resize_weights


def picture(height, width, channels=3):
    """Smooth colours with some noise."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    noisy = np.asarray(coarse, int) + rng.integers(-30, 30, (height, width, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)[..., :channels]


def keys(count):
    return jax.random.split(jax.random.key(1), count)


def test_resizing_a_part_equals_pillow():
    image = picture(24, 30)
    rng = np.random.default_rng(1)
    corner = rng.integers(0, (24, 30), (40, 2))
    size = 1 + rng.integers(0, np.array((24, 30)) - corner)
    boxes = np.concatenate([np.concatenate([corner, size], 1), [[0, 0, 24, 30], [0, 0, 24, 1], [23, 29, 1, 1]]])

    @jax.jit
    @jax.vmap
    def resize(box):
        rows, columns = resize_weights(24, box[0], box[2]), resize_weights(30, box[1], box[3])
        return resample(jnp.asarray(image), rows, columns)

    for (top, left, height, width), out in zip(boxes, np.asarray(resize(jnp.asarray(boxes))), strict=True):
        part = (left, top, left + width, top + height)
        expected = np.asarray(Image.fromarray(image).resize((30, 24), Image.Resampling.BILINEAR, box=part), int)
        assert np.abs(out - expected).max() <= 1
        assert (out != expected).mean() < 0.2  # halves, which 15 bits of weight round otherwise than 22


def test_shrinking_is_antialiased_as_in_pillow():
    # The part is twice as long as what it becomes, as when rows 0..20 of 20 were to become 10.
    weights = np.asarray(resize_weights(10, jnp.int32(-5), jnp.int32(20))) / 2**15
    row = picture(1, 20, 1)[0, :, 0]
    expected = np.asarray(Image.fromarray(row[None]).resize((10, 1), Image.Resampling.BILINEAR))[0]
    inner = np.zeros(10)
    for out in range(3, 7):  # their taps all lie inside the 10 pixels that the weights cover
        inner[out] = (weights[out] * row[5:15]).sum()
    np.testing.assert_allclose(inner[3:7], expected[3:7], atol=0.6)


def test_blur_equals_scipy():
    image = picture(20, 26)
    for sigma in (0.1, 0.7, 2.0):
        out = resample(jnp.asarray(image), *(blur_weights(size, jnp.float32(sigma)) for size in (20, 26)))
        blurred = [
            ndimage.gaussian_filter(values.astype(float), (sigma, sigma, 0), mode="constant", truncate=30)
            for values in (image, np.ones_like(image))
        ]
        assert np.abs(np.asarray(out) - blurred[0] / blurred[1]).max() < 1.2
    np.testing.assert_array_equal(
        image, resample(jnp.asarray(image), *(blur_weights(size, jnp.float32(0.1)) for size in (20, 26)))
    )


def test_boxes_have_uniform_area_log_uniform_aspect_and_uniform_place():
    draw = jax.jit(jax.vmap(lambda key: random_box(key, height=900, width=1000, area=(0.1, 0.3), ratio=(0.5, 2.0))))
    boxes, fits = (np.asarray(value) for value in draw(keys(3000)))
    assert fits.all()
    top, left, height, width = boxes.T
    assert ((top >= 0) & (left >= 0) & (top + height <= 900) & (left + width <= 1000)).all()
    assert stats.kstest(height * width / 900_000, stats.uniform(0.1, 0.2).cdf).pvalue > 1e-3
    assert stats.kstest(np.log(width / height), stats.uniform(np.log(0.5), np.log(4)).cdf).pvalue > 1e-3
    assert stats.kstest((top + 0.5) / (901 - height), "uniform").pvalue > 1e-3
    assert stats.kstest((left + 0.5) / (1001 - width), "uniform").pvalue > 1e-3


def test_a_box_that_cannot_fit_is_said_not_to():
    _, fits = random_box(jax.random.key(0), height=8, width=8, area=(1.0, 1.0), ratio=(2.0, 3.0))
    assert not fits


def test_box_mask_is_one_inside_only():
    expected = np.zeros((5, 7), bool)
    expected[1:3, 2:6] = True
    np.testing.assert_array_equal(box_mask(jnp.array([1, 2, 2, 4]), height=5, width=7), expected)


def test_the_whole_image_at_its_own_aspect_stays():
    image = jnp.asarray(picture(9, 9, 1))
    rule = RandomResizedCropConfig(scale=(1.0, 1.0), ratio=(1.0, 1.0))
    np.testing.assert_array_equal(random_resized_crop(image, jax.random.key(3), rule), image)


def test_where_no_draw_fits_the_part_is_the_largest_central_one():
    image = picture(20, 20)
    rule = RandomResizedCropConfig(scale=(1.0, 1.0), ratio=(4.0, 5.0))
    expected = Image.fromarray(image).resize((20, 20), Image.Resampling.BILINEAR, box=(0, 7, 20, 12))
    out = random_resized_crop(jnp.asarray(image), jax.random.key(3), rule)
    assert np.abs(np.asarray(out, int) - np.asarray(expected, int)).max() <= 1
