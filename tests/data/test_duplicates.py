import io

import numpy as np
import pytest
from PIL import Image
from scipy.fft import dctn

from mlvlab_jax.data.duplicates import compute_hashes, find_first_equal, find_similar


def test_hash_is_the_signs_of_the_low_frequencies_around_their_median():
    image = np.random.default_rng(0).integers(0, 256, (5, 64, 32, 1), np.uint8)
    hashes, thumbs = compute_hashes(image)
    small = image[..., 0].reshape(5, 32, 2, 32).mean(axis=2)
    low = np.stack([dctn(one)[:8, :8].reshape(64) for one in small])
    bits = low > np.median(low, axis=1, keepdims=True)
    np.testing.assert_array_equal(np.unpackbits(hashes.view(np.uint8).reshape(5, 8), axis=1), bits)
    np.testing.assert_allclose(thumbs, small.reshape(5, 8, 4, 8, 4).mean(axis=(2, 4)), atol=0.51)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (28, 28), (33, 100)])
def test_thumbnails_are_area_means_at_any_size(height, width):
    image = np.random.default_rng(1).integers(0, 256, (2, height, width, 1), np.uint8)
    _, thumbs = compute_hashes(image)
    for one, thumb in zip(image[..., 0], thumbs, strict=True):
        expected = np.asarray(Image.fromarray(one.astype(np.float32)).resize((8, 8), Image.Resampling.BOX))
        if height % 8 == width % 8 == 0:
            np.testing.assert_allclose(thumb, expected, atol=0.51)
        assert abs(thumb.mean() - one.mean()) < 1


def test_a_saved_again_resized_or_darkened_photo_stays_close_and_another_does_not():
    rng = np.random.default_rng(2)
    coarse = rng.integers(0, 256, (2, 12, 12, 3), np.uint8)
    photo, other = (Image.fromarray(one).resize((224, 224), Image.Resampling.BICUBIC) for one in coarse)
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=40)
    versions = [photo, Image.open(file), photo.resize((100, 100)).resize((224, 224)), photo.point(lambda v: v * 0.99)]
    hashes, thumbs = compute_hashes(np.stack([np.asarray(image) for image in [*versions, other]]))
    distances = np.bitwise_count(hashes ^ hashes[0])
    assert distances[:4].max() <= 4
    assert distances[4] > 16
    pairs = {
        (int(a), int(b)) for found in find_similar(hashes, thumbs, distance=4) for a, b in zip(*found, strict=True)
    }
    assert {(0, 1), (0, 2), (0, 3)} <= pairs
    assert not any(4 in pair for pair in pairs)


@pytest.mark.parametrize("distance", range(9))
def test_bands_find_every_pair_that_comparing_all_with_all_finds(distance):
    rng = np.random.default_rng(distance)
    seeds = rng.integers(0, 2**64, 60, np.uint64)
    hashes = np.repeat(seeds, 6)
    for index in range(len(hashes)):
        for bit in rng.choice(64, rng.integers(0, 6), replace=False).tolist():
            hashes[index] ^= np.uint64(1 << bit)
    thumbs = np.full((len(hashes), 8, 8), 100, np.uint8)
    thumbs[::7] += 5  # close hashes, but not the same to look at
    away = np.bitwise_count(hashes[:, None] ^ hashes)
    alike = np.abs(thumbs[:, None, 0, 0].astype(int) - thumbs[:, 0, 0]) <= 3
    expected = {(i, j) for i, j in np.argwhere((away <= distance) & alike).tolist() if i < j}
    found = {
        (int(a), int(b)) for pair in find_similar(hashes, thumbs, distance=distance) for a, b in zip(*pair, strict=True)
    }
    assert found == expected
    assert len(expected) > 3


def test_first_equal_is_the_first_row_of_the_same_digest():
    digest = np.random.default_rng(0).integers(0, 4, (300, 2)).astype(np.uint64)
    rows = [tuple(row) for row in digest.tolist()]
    assert find_first_equal(digest).tolist() == [rows.index(row) for row in rows]
    assert find_first_equal(digest[:1]).tolist() == [0]
