import numpy as np
import pytest
from PIL import Image, ImageStat
from scipy import ndimage

from mlvlab_jax.data.statistics import describe_grey, describe_images

LAPLACIAN = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])


def make_images(count, size=(9, 12), channels=3, seed=0):
    rng = np.random.default_rng(seed)
    scale = rng.integers(1, 256, (count, 1, 1, 1))
    return (rng.integers(0, 256, (count, *size, channels)) * scale // 255).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_measures_equal_numpy_and_scipy(channels):
    images = make_images(20, channels=channels)
    grey = (images.astype(int) * ([299, 587, 114] if channels == 3 else 1)).sum(-1) // (
        1000 if channels == 3 else channels
    )
    found = describe_images(images)
    expected = {
        "brightness": grey.mean((1, 2)),
        "contrast": grey.std((1, 2)),
        "sharpness": [ndimage.convolve(one, LAPLACIAN)[1:-1, 1:-1].var() for one in grey],
        **{f"mean_{k}": images[..., k].mean((1, 2)) for k in range(channels)},
        **{f"std_{k}": images[..., k].std((1, 2)) for k in range(channels)},
    }
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].dtype == np.float64
        np.testing.assert_allclose(found[name], values, rtol=1e-12, err_msg=name)


def test_measures_equal_those_of_pillow():
    images = make_images(8)
    found = describe_images(images)
    for at, pixels in enumerate(images):
        image = Image.fromarray(pixels)
        colours, grey = ImageStat.Stat(image), ImageStat.Stat(image.convert("L"))
        np.testing.assert_allclose([found[f"mean_{k}"][at] for k in range(3)], colours.mean, rtol=1e-12)
        np.testing.assert_allclose([found[f"std_{k}"][at] for k in range(3)], colours.stddev, rtol=1e-9)
        # Pillow rounds grey to the nearest, this project down.
        assert found["brightness"][at] == pytest.approx(grey.mean[0], abs=0.6)
        assert found["contrast"][at] == pytest.approx(grey.stddev[0], abs=0.6)


def test_an_image_is_described_alike_in_any_batch():
    images = make_images(33, size=(31, 17))
    together = describe_images(images)
    for at in (0, 7, 32):
        for name, values in describe_images(images[at : at + 1]).items():
            assert values[0] == together[name][at], name
    for name, values in describe_images(np.asfortranarray(images)[::-1]).items():
        np.testing.assert_array_equal(values[::-1], together[name], err_msg=name)


def test_a_flat_image_has_no_spread_at_all():
    found = describe_images(np.full((2, 40, 30, 3), 201, np.uint8))
    for name in ("contrast", "sharpness", "std_0", "std_1", "std_2"):
        assert found[name].tolist() == [0, 0], name
    assert found["mean_1"].tolist() == [201, 201]


def test_one_pixel_in_millions_is_seen():
    image = np.full((1, 4100, 4100, 1), 255, np.uint8)  # the product of sums is beyond 64 bits
    image[0, 0, 0] = 254
    n = 4100**2
    found = describe_grey(image)
    assert found["contrast"][0] == pytest.approx((n - 1) ** 0.5 / n, rel=1e-12)
    assert found["brightness"][0] == 255 - 1 / n


def test_no_images_and_images_too_small_for_an_edge_have_measures_too():
    assert describe_images(make_images(0))["sharpness"].shape == (0,)
    assert describe_images(make_images(3, size=(1, 2)))["sharpness"].tolist() == [0, 0, 0]
