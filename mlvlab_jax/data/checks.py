"""The checks of data: from what one pass kept of each example to findings."""

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from mlvlab_jax.config.schema import ValidationConfig
from mlvlab_jax.data.duplicates import find_first_equal, find_similar
from mlvlab_jax.data.findings import Collector, SplitSummary, short_name
from mlvlab_jax.data.profile import DataProfile
from mlvlab_jax.data.scan import Scan
from mlvlab_jax.data.source import count_classes

#: Area of an image by the median area of its split, or the inverse, beyond which its size stands out.
_MAX_AREA_RATIO = 16.0
#: Training standard deviations by which a channel's mean may differ between splits; the deviations' ratio likewise.
_MAX_MEAN_SHIFT, _MAX_STD_RATIO = 0.5, 1.5


def check_scans(
    scans: Sequence[Scan],
    rules: ValidationConfig,
    *,
    class_names: Sequence[str],
    reference: DataProfile | None = None,
) -> Collector:
    """All checks.

    Args:
        scans: Of the splits, in the order train, validation, test. Of two equal images in two splits the one in the
            earlier split is the one to leave out: training does without it, and what is measured stays comparable.
        rules: Limits.
        class_names: Of the labels.
        reference: What the pixels of every split should look like, of as many channels.
    """
    found = Collector()
    for scan in scans:
        _check_files(scan, found)
        _check_sizes(scan, rules, found)
        _check_labels(scan, rules, class_names, found)
        if reference is not None:
            _compare_statistics(scan, reference.mean, reference.std, of="the reference", found=found)
    for scan in scans[1:]:
        _compare_statistics(scan, *scans[0].compute_statistics(), of=scans[0].name, found=found)
    _check_duplicates(scans, rules, class_names, found)
    return found


def summarise(scan: Scan, *, num_classes: int) -> SplitSummary:
    """One split in numbers."""
    ids = scan.readable
    mean, std = scan.compute_statistics()
    side = np.sqrt(scan.width[ids].astype(float) * scan.height[ids])
    _, bin_of, numbers = np.unique(np.rint(np.log2(side) * 2), return_inverse=True, return_counts=True)
    sides = np.rint(np.bincount(bin_of, side, minlength=len(numbers)) / numbers).astype(int)
    return SplitSummary(
        name=scan.name,
        num_examples=len(scan),
        num_unreadable=len(scan.bad),
        class_counts=tuple(_count_classes(scan, num_classes).tolist()),
        mean=tuple(np.nan_to_num(mean).round(6).tolist()),
        std=tuple(np.nan_to_num(std).round(6).tolist()),
        brightness=tuple(np.bincount(scan.brightness[ids] // 8, minlength=32).tolist()),
        sides=tuple(zip(sides.tolist(), numbers.tolist(), strict=True)),
    )


def _count_classes(scan: Scan, num_classes: int) -> np.ndarray:
    return count_classes(scan.label[scan.readable], num_classes=num_classes, label_sets=scan.label_sets)


def _check_files(scan: Scan, found: Collector) -> None:
    for kind, message, details in (
        ("unreadable", "cannot be decoded; replace or remove the files", scan.bad),
        ("wrong extension", "the name says another format than the content; read all the same", scan.renamed),
        ("validator", "refused by the class of validation.validator", scan.rejected),
    ):
        found.add(kind, scan, message, ids=details, detail=details.__getitem__)
    found.add("validator batch", scan, "; ".join(scan.rejected_batches[:5]), count=len(scan.rejected_batches))


def _check_sizes(scan: Scan, rules: ValidationConfig, found: Collector) -> None:
    ids = scan.readable
    if len(ids) == 0:
        return
    width, height = scan.width[ids].astype(float), scan.height[ids].astype(float)
    short, long = np.minimum(width, height), np.maximum(width, height)
    ratio = width * height / np.median(width * height)

    def add(kind: str, chosen: np.ndarray, message: str) -> None:
        def detail(index: int) -> str:
            return f"{scan.width[index]} x {scan.height[index]} pixels"

        found.add(kind, scan, message, ids=ids[chosen], detail=detail)

    add("tiny", short < rules.min_side, f"a side below {rules.min_side} pixels (validation.min_side)")
    add("odd shape", long > rules.max_aspect * short, f"longer than {rules.max_aspect:g} : 1 (validation.max_aspect)")
    outlying = (ratio > _MAX_AREA_RATIO) | (ratio < 1 / _MAX_AREA_RATIO)
    add("size outlier", outlying, f"{_MAX_AREA_RATIO:g} times larger or smaller in area than the median image")
    add("blank", scan.blank[ids], "one colour all over")


def _check_labels(scan: Scan, rules: ValidationConfig, class_names: Sequence[str], found: Collector) -> None:
    label, last = scan.label, len(class_names if scan.label_sets is None else scan.label_sets) - 1
    message = f"expected 0 to {last}; correct the labels or the class list"
    wrong = np.flatnonzero((label < 0) | (label > last))
    found.add("label out of range", scan, message, ids=wrong, detail=scan.describe_label)
    counts = _count_classes(scan, len(class_names))
    empty = [class_names[k] for k in np.flatnonzero(counts == 0).tolist()]
    kind = "empty class" if scan.name == "train" else "absent class"
    found.add(kind, scan, f"no readable example of {', '.join(map(repr, empty[:10]))}", count=len(empty))
    small = counts * rules.max_imbalance < counts.max()
    if not empty:
        least, most = class_names[int(counts.argmin())], class_names[int(counts.argmax())]
        ratio = counts.max() / counts.min()
        message = f"{most!r} has {counts.max()} examples, {least!r} {counts.min()}: {ratio:.1f} times as many"
        found.add("class imbalance", scan, message, count=int(small.sum()))


def _compare_statistics(scan: Scan, mean: ArrayLike, std: ArrayLike, *, of: str, found: Collector) -> None:
    """Statistics of the channels of a split against those `of` another; nothing where one has no readable image."""
    mean, std = np.asarray(mean), np.asarray(std)
    own_mean, own_std = scan.compute_statistics()
    if np.isnan(mean).any() or np.isnan(own_mean).any():
        return
    moved = np.abs(own_mean - mean) > _MAX_MEAN_SHIFT * std
    ratio = np.maximum(own_std, std) / np.maximum(np.minimum(own_std, std), 1e-6)
    message = f"mean {_show(own_mean)}, std {_show(own_std)}; {of} has {_show(mean)} and {_show(std)}"
    found.add("statistics", scan, message, count=int((moved | (ratio > _MAX_STD_RATIO)).sum()))


def _show(values: np.ndarray) -> str:
    return "/".join(f"{value:.3f}" for value in values)


class _Together:
    """The readable examples of all splits in one row."""

    def __init__(self, scans: Sequence[Scan]) -> None:
        self.scans = scans
        self.split = np.concatenate([np.full(len(scan.readable), k) for k, scan in enumerate(scans)])
        self.index = np.concatenate([scan.readable for scan in scans])
        self.label = self.gather("label")
        self.first = find_first_equal(self.gather("digest"))
        self.first_in_split = find_first_equal(np.stack([self.first, self.split], axis=1).astype(np.uint64))

    def gather(self, field: str) -> np.ndarray:
        return np.concatenate([getattr(scan, field)[scan.readable] for scan in self.scans])

    def describe(self, at: int) -> str:
        scan = self.scans[self.split[at]]
        return f"{scan.name} {short_name(scan.stored.name(int(self.index[at])))}"

    def add(self, found: Collector, kind: str, message: str, *, of: np.ndarray, split: int) -> None:
        """A finding about the members of one split whose partner in `of`, int64 (n), is not -1."""
        chosen = np.flatnonzero((of >= 0) & (self.split == split))
        at_of = dict(zip(self.index[chosen].tolist(), chosen.tolist(), strict=True))
        found.add(
            kind,
            self.scans[split],
            message,
            ids=at_of,
            detail=lambda index: f"like {self.describe(int(of[at_of[index]]))}",
        )


def _check_duplicates(
    scans: Sequence[Scan], rules: ValidationConfig, class_names: Sequence[str], found: Collector
) -> None:
    rows = _Together(scans)
    if len(rows.index) == 0:
        return
    _check_conflicts(rows, class_names, found)
    everyone = np.arange(len(rows.index))
    copies = np.where(rows.first_in_split != everyone, rows.first_in_split, -1)
    near_copies, near = _find_near(rows, rules)
    for k, scan in enumerate(scans):
        rows.add(found, "duplicate", "the same pixels as an earlier example", of=copies, split=k)
        message = f"looks like an earlier example (hashes within {rules.near_duplicate_distance} bits of 64)"
        rows.add(found, "near duplicate", message, of=near_copies, split=k)
        for t in range(k + 1, len(scans)):
            message = f"also in {scans[t].name}; remove it from {scan.name}"
            rows.add(found, "leak", message, of=_find_equal(rows, k, t), split=k)
            message = f"looks like one in {scans[t].name} (hashes within {rules.near_duplicate_distance} bits of 64)"
            rows.add(found, "near leak", message, of=near[k, t], split=k)


def _check_conflicts(rows: _Together, class_names: Sequence[str], found: Collector) -> None:
    """Identical images with several labels; which one is right cannot be told, so all are to be left out."""
    low, high = np.full(len(rows.index), np.iinfo(np.int64).max), np.full(len(rows.index), np.iinfo(np.int64).min)
    np.minimum.at(low, rows.first, rows.label)
    np.maximum.at(high, rows.first, rows.label)
    conflicting = (low < high)[rows.first]
    for k, scan in enumerate(rows.scans):
        message = "the same pixels under another label; correct the labels or remove the images"
        ids = rows.index[conflicting & (rows.split == k)]
        names = functools.partial(_name_classes, scan, class_names)
        found.add("conflicting labels", scan, message, ids=ids, detail=names)


def _name_classes(scan: Scan, class_names: Sequence[str], index: int) -> str:
    """'labelled cat', or 'labelled cat and dog'; a number where there is no such class."""
    label = scan.label_of(index)
    numbers = label if isinstance(label, tuple) else (label,)
    names = [class_names[number] if 0 <= number < len(class_names) else str(number) for number in numbers]
    return f"labelled {' and '.join(names) or 'as none of the classes'}"


def _find_equal(rows: _Together, one: int, other: int) -> np.ndarray:
    """For each member of split `one` the first identical image in split `other`; -1 for none, int64 (n)."""
    there = np.flatnonzero(rows.split == other)[::-1]
    first_there = np.full(len(rows.index), -1)
    first_there[rows.first[there]] = there
    return np.where(rows.split == one, first_there[rows.first], -1)


def _find_near(rows: _Together, rules: ValidationConfig) -> tuple[np.ndarray, dict[tuple[int, int], np.ndarray]]:
    """Partners of the examples that look like one earlier in their split, or like one of a later split; -1 for none.

    Of identical images in a split the first is compared; blank ones are not: any two of them look alike.
    """
    kept = np.flatnonzero((rows.first_in_split == np.arange(len(rows.first))) & ~rows.gather("blank"))
    hashes, thumbs = rows.gather("phash")[kept], rows.gather("thumb")[kept]
    far = len(rows.index)
    own = np.full(far, far)
    across = {(s, t): np.full(far, far) for s in range(len(rows.scans)) for t in range(s + 1, len(rows.scans))}
    for one, other in find_similar(hashes, thumbs, distance=rules.near_duplicate_distance):
        differ = rows.first[kept[one]] != rows.first[kept[other]]
        first, second = kept[one[differ]], kept[other[differ]]
        inside = rows.split[first] == rows.split[second]
        np.minimum.at(own, second[inside], first[inside])
        for (s, t), partner in across.items():
            pair = (rows.split[first] == s) & (rows.split[second] == t)
            np.minimum.at(partner, first[pair], second[pair])
    return np.where(own < far, own, -1), {key: np.where(p < far, p, -1) for key, p in across.items()}
