"""Images that are the same, or look it: perceptual hashes, and pairs found without comparing all with all."""

import itertools
from collections.abc import Iterator

import numpy as np

#: Side in pixels of the small grey copy the hash is computed from, and of the one kept to verify a pair.
_HASH_SIDE, THUMB_SIDE = 32, 8
#: Neighbours an example is compared with in one band: bounds the time where a great many images hash alike.
_MAX_NEIGHBOURS = 2048
#: Mean absolute difference of the two thumbnails, in grey levels, up to which a pair with close hashes looks the same.
_MAX_THUMB_DIFFERENCE = 3.0
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def compute_hashes(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Perceptual hash and thumbnail of each image.

    The hash has one bit for each of the 64 lowest frequencies of the 32 x 32 grey image: above the median or not.

    Args:
        image: uint8 (b, h, w, c).

    Returns:
        uint64 (b) and uint8 (b, 8, 8).

    References:
        C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010.
    """
    grey = image.astype(np.float32) @ _LUMA if image.shape[-1] == 3 else image[..., 0].astype(np.float32)
    rows, columns = _area_matrix(image.shape[1]), _area_matrix(image.shape[2])
    small = rows @ grey @ columns.T
    cosines = np.cos(np.pi / _HASH_SIDE * (np.arange(_HASH_SIDE) + 0.5) * np.arange(8)[:, None]).astype(np.float32)
    low = (cosines @ small @ cosines.T).reshape(len(image), 64)
    bits = low > np.median(low, axis=1, keepdims=True)
    step = _HASH_SIDE // THUMB_SIDE
    thumb = small.reshape(-1, THUMB_SIDE, step, THUMB_SIDE, step).mean(axis=(2, 4))
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0], np.rint(thumb).astype(np.uint8)


def _area_matrix(side: int) -> np.ndarray:
    """float32 (32, side): rows that average the pixels, or parts of them, below each of 32 equal pieces."""
    edges = np.arange(_HASH_SIDE + 1) * side / _HASH_SIDE
    pixels = np.arange(side)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (np.clip(overlap, 0, 1) * _HASH_SIDE / side).astype(np.float32)


def find_first_equal(digest: np.ndarray) -> np.ndarray:
    """For each row of `digest`, uint64 (n, 2), the index of the first row equal to it: int64 (n)."""
    order = np.lexsort((digest[:, 1], digest[:, 0]))  # stable: equal rows stay in their order
    ordered = digest[order]
    starts = np.flatnonzero(np.r_[True, (ordered[1:] != ordered[:-1]).any(axis=1)])
    first = np.empty(len(digest), np.int64)
    first[order] = np.repeat(order[starts], np.diff(np.r_[starts, len(digest)]))
    return first


def find_similar(hashes: np.ndarray, thumbs: np.ndarray, *, distance: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of images whose hashes differ in at most `distance` bits and whose thumbnails look the same.

    The 64 bits are cut into distance + 1 bands, of which such a pair shares at least one. In each band the hashes are
    sorted and each is compared with those after it that share the band, at most 2,048 of them; so in sets where more
    images than that share a band, some pairs may be missed.

    Args:
        hashes: uint64 (n).
        thumbs: uint8 (n, 8, 8).
        distance: 0 to 8.

    Yields:
        int64 (m), int64 (m): indices of pairs, the smaller first; a pair may come more than once.
    """
    edges = [64 * band // (distance + 1) for band in range(distance + 2)]
    for start, end in itertools.pairwise(edges):
        turned = hashes << np.uint64(start) | hashes >> np.uint64(64 - start) if start else hashes
        order = np.argsort(turned, kind="stable")
        band = turned[order] >> np.uint64(64 - end + start if distance else 0)
        ordered, left = hashes[order], np.arange(len(hashes))
        for offset in range(1, _MAX_NEIGHBOURS + 1):
            left = left[left < len(hashes) - offset]
            left = left[band[left] == band[left + offset]]
            if not len(left):
                break
            near = left[np.bitwise_count(ordered[left] ^ ordered[left + offset]) <= distance]
            one, other = order[near], order[near + offset]
            difference = np.abs(thumbs[one].astype(np.int16) - thumbs[other]).mean(axis=(1, 2))
            same = difference <= _MAX_THUMB_DIFFERENCE
            if same.any():
                yield np.minimum(one, other)[same], np.maximum(one, other)[same]
