import json

import numpy as np
import pytest
from scipy import ndimage

from mlvlab_jax.data.profile import LIMITS, DataProfile
from mlvlab_jax.errors import DataError


def make_images(count, size=(9, 12), channels=3, seed=0):
    rng = np.random.default_rng(seed)
    scale = rng.integers(1, 256, (count, 1, 1, 1))
    return (rng.integers(0, 256, (count, *size, channels)) * scale // 255).astype(np.uint8)


def make_profile(images, labels=None, **known):
    labels = np.arange(len(images)) % 5 if labels is None else labels
    return DataProfile.empty(5, images.shape[3]).update(images, labels, **known)


def same(a, b):
    return a.to_json() == b.to_json()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_moments_and_labels_equal_numpy_on_the_whole_set(channels):
    images, labels = make_images(40, channels=channels), np.repeat([0, 3, 3, 4], 10)
    profile = make_profile(images, labels)
    scaled = images / 255
    np.testing.assert_allclose(profile.mean, scaled.mean((0, 1, 2)), rtol=1e-13)
    np.testing.assert_allclose(profile.std, scaled.std((0, 1, 2)), rtol=1e-13)
    assert profile.labels.tolist() == [10, 0, 0, 20, 10]
    assert profile.num_images == 40
    np.testing.assert_array_equal(profile.pixels[-1], np.bincount(images[..., -1].ravel(), minlength=256))


def test_brightness_and_sharpness_equal_scipy():
    images = make_images(50)
    luma = (images.astype(int) * [299, 587, 114]).sum(-1) // 1000
    kernel = [[0, 1, 0], [1, -4, 1], [0, 1, 0]]
    sharpness = [ndimage.convolve(grey, np.array(kernel))[1:-1, 1:-1].var() for grey in luma]
    profile = make_profile(images)
    for name, values in (("brightness", luma.mean((1, 2))), ("sharpness", sharpness)):
        limits = LIMITS[name]
        expected = [int(np.sum(limits <= value)) for value in values]
        np.testing.assert_array_equal(profile.histograms[name], np.bincount(expected, minlength=len(limits) + 1))
        assert len(set(expected)) > 10


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_quantiles_are_those_of_numpy_up_to_a_bin(fraction):
    images = make_images(101)
    sizes = np.stack([np.arange(100, 201), np.arange(800, 699, -1)], 1)
    profile = make_profile(images, sizes_px=sizes, file_bytes=np.arange(101) ** 3)
    known = {"height_px": sizes[:, 0], "aspect": sizes[:, 1] / sizes[:, 0], "file_bytes": np.arange(101) ** 3}
    for name, values in known.items():
        exact = np.quantile(values, fraction, method="inverted_cdf")
        found = profile.quantile(name, fraction)
        assert found <= exact * (1 + 1e-12)
        assert exact < found * 1.19 or (exact == 0 == found)
    brightness = ((images.astype(int) * [299, 587, 114]).sum(-1) // 1000).mean((1, 2))
    exact = np.quantile(brightness, fraction, method="inverted_cdf")
    assert profile.quantile("brightness", fraction) == np.floor(exact)


def test_merging_in_any_order_and_grouping_is_the_profile_of_all():
    images = np.concatenate([make_images(60, seed=seed) for seed in (0, 1)])
    known = {"sizes_px": np.random.default_rng(0).integers(1, 5000, (120, 2)), "file_bytes": np.arange(120) * 1000}
    whole = make_profile(images, **known)
    cuts = [slice(0, 1), slice(1, 77), slice(77, 120)]
    labels = np.arange(120) % 5
    a, b, c = (make_profile(images[s], labels[s], **{name: value[s] for name, value in known.items()}) for s in cuts)
    assert same(a.merge(b).merge(c), whole)
    assert same(a.merge(b.merge(c)), whole)
    assert same(c.merge(a).merge(b), whole)
    assert same(whole.merge(DataProfile.empty(5, 3)), whole)
    assert not same(a.merge(b), whole)
    step = a.update(images[1:77], labels[1:77], sizes_px=known["sizes_px"][1:77], file_bytes=known["file_bytes"][1:77])
    assert same(step, a.merge(b))


def test_an_update_leaves_the_old_profile_alone():
    old = make_profile(make_images(5))
    before = old.to_json()
    old.update(make_images(7), np.zeros(7, int))
    assert old.to_json() == before


def test_nothing_seen_is_zero_images_and_no_numbers():
    empty = DataProfile.empty(3, 1)
    assert empty.num_images == 0
    assert np.isnan([*empty.mean, *empty.std, empty.quantile("sharpness", 0.5)]).all()
    assert same(empty.update(np.zeros((0, 8, 8, 1), np.uint8), np.zeros(0, int)), empty)
    assert same(DataProfile.from_json(empty.to_json()), empty)


def test_counts_beyond_float32_and_float64_stay_exact():
    pixels = np.zeros((1, 256), np.int64)
    pixels[0, 0], pixels[0, 255] = 2**24 + 1, 1
    profile = DataProfile(pixels, np.array([1]), DataProfile.empty(1, 1).histograms)
    assert profile.mean[0] == 1 / (2**24 + 2)
    many = profile
    for _ in range(29):
        many = many.merge(many)
    assert many.pixels[0, 0] == (2**24 + 1) * 2**29  # above 2**53
    assert many.mean == profile.mean
    assert many.std == profile.std
    image = np.full((1, 4100, 4100, 1), 200, np.uint8)  # 16.8 million pixels
    image[0, 0, 0] = 201
    counted = make_profile(image)
    assert counted.mean[0] == (200 * 4100**2 + 1) / (255 * 4100**2)
    assert counted.std[0] == pytest.approx((4100**2 - 1) ** 0.5 / 4100**2 / 255, rel=1e-12, abs=0)
    assert counted.quantile("brightness", 0.5) == 200


def test_sizes_are_those_of_the_images_unless_given():
    images = make_images(4, size=(8, 16))
    profile = make_profile(images)
    assert (profile.quantile("height_px", 0.5), profile.quantile("width_px", 0.5)) == (8, 16)
    assert profile.quantile("aspect", 0.5) == 2
    assert profile.histograms["file_bytes"].sum() == 0
    stored = make_profile(images, sizes_px=np.full((4, 2), [512, 256]))
    assert (stored.quantile("height_px", 0.5), stored.quantile("aspect", 0.5)) == (512, 0.5)


def test_a_smooth_bend_is_not_sharp():
    parabola = np.broadcast_to(np.arange(16)[:, None] ** 2, (1, 16, 16))[..., None].astype(np.uint8)
    assert make_profile(parabola).histograms["sharpness"][0] == 1  # its Laplacian is 2 everywhere


def test_images_too_small_for_an_edge_have_no_sharpness():
    profile = make_profile(make_images(3, size=(1, 2)))
    assert profile.histograms["sharpness"][0] == 3


def test_json_keeps_every_count_and_refuses_what_it_is_not():
    profile = make_profile(make_images(30), file_bytes=np.arange(30) * 10**9)
    text = profile.to_json()
    back = DataProfile.from_json(text)
    assert back.to_json() == text
    assert (back.mean, back.std) == (profile.mean, profile.std)
    assert back.pixels.dtype == np.int64
    tree = json.loads(text)
    short = {**tree, "pixels": [row[:9] for row in tree["pixels"]]}
    negative = {**tree, "labels": [-1, 0, 0, 0, 0]}
    for bad in ("", "[]", "{}", "null", json.dumps(short), json.dumps(negative), json.dumps({**tree, "labels": "x"})):
        with pytest.raises(DataError, match="not a data profile"):
            DataProfile.from_json(bad)
    with pytest.raises(DataError, match="format 2; expected 1"):
        DataProfile.from_json(json.dumps({**tree, "format": 2}))


def test_what_does_not_fit_is_refused():
    profile = make_profile(make_images(3))
    with pytest.raises(DataError, match=r"expected \(b, h, w, 3\)"):
        profile.update(make_images(3, channels=1), np.zeros(3, int))
    for labels in ([0, 1, 5], [0, -1, 1]):
        with pytest.raises(DataError, match=r"expected 0\.\.4"):
            profile.update(make_images(3), np.array(labels))
    with pytest.raises(DataError, match=r"\(5, 3\) and \(4, 3\)"):
        profile.merge(DataProfile.empty(4, 3))
