"""Data looked at as a whole: every example by `inspect_data`, or a few in the moments before training."""

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mlvlab_jax.config.schema import PreprocessSpec, ValidationConfig
from mlvlab_jax.data.checks import check_scans, summarise
from mlvlab_jax.data.findings import ValidationReport
from mlvlab_jax.data.open import Data, complete_preprocess
from mlvlab_jax.data.order import Split
from mlvlab_jax.data.profile import read_profile
from mlvlab_jax.data.quarantine import BadExample
from mlvlab_jax.data.scan import Scan, scan_split
from mlvlab_jax.data.source import ArraySource, OpenedData, count_classes
from mlvlab_jax.data.validation import load_validator
from mlvlab_jax.errors import DataError
from mlvlab_jax.plugins import SOURCES, Spec

_ORDER = ("train", "validation", "test")
#: Examples of a split that are decoded before training, and bytes of images in memory up to which splits are compared.
_SAMPLE, _MAX_COMPARED_BYTES = 64, 64 * 2**20


class Inspection(NamedTuple):
    """What was found, the examples to leave out, and what was kept of every example, by split."""

    report: ValidationReport
    bad: list[BadExample]
    scans: dict[str, Scan]


def inspect_data(source: Spec, preprocess: PreprocessSpec, rules: ValidationConfig) -> Inspection:
    """Reads every example of every split once, as training would, and checks them.

    Raises:
        ConfigError: No size for images of several sizes, or `rules.validator` cannot be imported.
        DataError: The source cannot be opened, or `rules.reference` is no profile of such images.
    """
    start = time.monotonic()
    opened: OpenedData = SOURCES.build(source)
    preprocess = complete_preprocess(preprocess, opened, source.name)
    height, width = preprocess.size or (0, 0)
    shape = (height, width, preprocess.channels or 3)
    num_classes = len(opened.class_names)
    validator = None
    if rules.validator is not None:
        validator = load_validator(rules.validator)(valid_labels=range(num_classes), shape=shape)
    reference = None
    if rules.reference is not None:
        reference = read_profile(Path(rules.reference).expanduser(), num_channels=shape[2])
    names = sorted(opened.splits, key=_ORDER.index)
    scans = {
        name: scan_split(name, opened.splits[name], preprocess, label_sets=opened.label_sets, validator=validator)
        for name in names
    }
    found = check_scans(list(scans.values()), rules, class_names=opened.class_names, reference=reference)
    report = ValidationReport(
        source=source.name,
        class_names=opened.class_names,
        image=shape,
        identity=dict(opened.identity),
        splits=tuple(summarise(scan, num_classes=num_classes) for scan in scans.values()),
        findings=tuple(sorted(found.findings, key=lambda finding: finding.severity)),
        seconds=round(time.monotonic() - start, 3),
    )
    return Inspection(report, found.bad_examples(names), scans)


def check_before_training(data: Data, rules: ValidationConfig) -> list[str]:
    """A quick look: classes, 64 examples of each split decoded, and images of one split in another, where in memory.

    Returns:
        What is wrong, one line each.

    Raises:
        DataError: Something is, and `rules.mode` is strict.
    """
    if rules.mode == "off":
        return []
    errors = _check_leaks(data.splits)
    warnings = []
    for split in data.splits.values():
        errors += _check_sample(split)
        missing, uneven = _check_classes(split, data.class_names, rules)
        errors += missing if split.name == "train" else []
        warnings += uneven if split.name == "train" else missing + uneven
    if errors and rules.mode == "strict":
        listed = "\n".join(f"  {line}" for line in errors)
        raise DataError(f"the data (validation.mode: strict):\n{listed}\nmlvlab validate lists all of it")
    return [f"data: {line}" for line in errors + warnings]


def _check_classes(split: Split, class_names: tuple[str, ...], rules: ValidationConfig) -> tuple[list[str], list[str]]:
    """Lines about classes without examples, and about classes of very different size."""
    labels = getattr(split.source, "labels", None)
    if labels is None:
        return [], []
    counts = count_classes(labels[split.ids], num_classes=len(class_names), label_sets=split.label_sets)
    empty = [class_names[k] for k in np.flatnonzero(counts == 0).tolist()]
    if empty:
        return [f"{split.name}: no example of {len(empty)} of {len(class_names)} classes, such as {empty[0]!r}"], []
    if counts.max() > rules.max_imbalance * counts.min():
        return [], [f"{split.name}: the largest class has {counts.max()} examples, the smallest {counts.min()}"]
    return [], []


def _check_sample(split: Split) -> list[str]:
    chosen = split.ids[np.unique(np.linspace(0, len(split) - 1, _SAMPLE).astype(np.int64))]
    bad = split.fetch(chosen).bad
    if not bad:
        return []
    at, why = next(iter(bad.items()))
    name = split.source.name(int(chosen[at]))
    return [f"{split.name}: {len(bad)} of {len(chosen)} examples looked at are unreadable, such as {name}: {why}"]


def _check_leaks(splits: Mapping[str, Split]) -> list[str]:
    held = {name: split for name, split in splits.items() if isinstance(split.source, ArraySource)}
    if sum(len(split) * int(np.prod(split.source.spec)) for split in held.values()) > _MAX_COMPARED_BYTES:
        return []
    seen: dict[str, set[bytes]] = {}
    found = []
    for name in sorted(held, key=_ORDER.index):
        images = held[name].source.fetch(held[name].ids).image
        digests = {hashlib.blake2b(image.data, digest_size=16).digest() for image in images}
        for earlier, others in seen.items():
            if shared := len(others & digests):
                found.append(f"{shared} images of {name} are also in {earlier}")
        seen[name] = digests
    return found
