"""Two models on the same examples: how far apart they are, and whether that could be chance."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlvlab_jax.errors import DataError
from mlvlab_jax.evaluation.intervals import Estimate, Z, estimate_share
from mlvlab_jax.evaluation.predictions import Predictions

_LEVEL = 0.05
#: Standard normal quantile of a power of 80 %.
_Z_POWER = 0.8416212335729143


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Accuracy of model b against that of model a on the same examples.

    difference: b - a, with its 95 % interval low to high. only_a and only_b: examples that one alone has right.
    p_value: of the exact McNemar test. detectable: the difference that this many examples would show in four out of
    five cases.
    """

    split: str
    num_examples: int
    accuracy_a: Estimate
    accuracy_b: Estimate
    difference: float
    low: float
    high: float
    both: int
    only_a: int
    only_b: int
    neither: int
    p_value: float
    detectable: float

    @property
    def verdict(self) -> str:
        """One sentence for a person."""
        if self.p_value < _LEVEL:
            better = "B" if self.difference > 0 else "A"
            ends = sorted(abs(100 * end) for end in (self.low, self.high))
            return (
                f"{better} is better: +{abs(100 * self.difference):.1f} points [{ends[0]:.1f}, {ends[1]:.1f}], "
                f"p = {self.p_value:.2g}"
            )
        return (
            f"no difference can be told from {self.num_examples:,} examples (p = {self.p_value:.2g}); "
            f"a difference of about {100 * self.detectable:.1f} points could"
        )

    def to_tree(self) -> dict[str, Any]:
        """As JSON values."""
        tree = dataclasses.asdict(self)
        for name in ("accuracy_a", "accuracy_b"):
            tree[name] = tree[name]._asdict()
        return tree | {"verdict": self.verdict}


def compare(a: Predictions, b: Predictions) -> Comparison:
    """Compares two models example by example.

    Raises:
        DataError: They differ in split, classes, examples or labels; says how many are missing on which side.
    """
    _check_alike(a, b)
    order_a, order_b = _pair(a, b)
    if (a.label[order_a] != b.label[order_b]).any():
        differ = np.flatnonzero(a.label[order_a] != b.label[order_b])
        first = a.ids[order_a[differ[0]]]
        raise DataError(
            f"{len(differ)} of {len(a)} examples have another label in B than in A, first {first!r}; expected the same "
            "labels; evaluate both on the same data"
        )
    right_a, right_b = a.correct[order_a], b.correct[order_b]
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    low, high = compute_tango(only_b, only_a, len(a))
    return Comparison(
        split=a.split,
        num_examples=len(a),
        accuracy_a=estimate_share(right_a),
        accuracy_b=estimate_share(right_b),
        difference=(only_b - only_a) / len(a),
        low=low,
        high=high,
        both=int((right_a & right_b).sum()),
        only_a=only_a,
        only_b=only_b,
        neither=int((~right_a & ~right_b).sum()),
        p_value=compute_mcnemar(only_a, only_b),
        detectable=compute_detectable(only_a + only_b, len(a)),
    )


def compute_mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided p value of the exact McNemar test: discordant pairs fall to either side like coins.

    References:
        Q. McNemar, "Note on the sampling error of the difference between correlated proportions or percentages", 1947.
    """
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5)))


def compute_tango(num_gained: int, num_lost: int, num_all: int) -> tuple[float, float]:
    """Tango's 95 % score interval of a paired difference of shares, (num_gained - num_lost) / num_all.

    The limits are the differences that the score test of paired data just does not reject.

    References:
        T. Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample
        design", Statistics in Medicine, 1998.
    """
    from scipy.optimize import brentq

    observed = (num_gained - num_lost) / num_all

    def excess(difference: float, sign: float) -> float:
        """How far `difference` lies from the observed one, less what chance explains."""
        # The probability of a loss that is most likely under this difference: the root of a quadratic.
        b = (2 * num_all - num_gained + num_lost) * difference - num_gained - num_lost
        c = -num_lost * difference * (1 - difference)
        lost = (np.sqrt(b * b - 8 * num_all * c) - b) / (4 * num_all)
        variance = max(0.0, 2 * lost + difference - difference**2)
        return num_gained - num_lost - num_all * difference - sign * Z * np.sqrt(num_all * variance)

    beside = 1e-9  # where no pair is discordant the observed difference itself has no variance, and is a false root
    low = brentq(excess, -1.0, max(-1.0, observed - beside), args=(1.0,), xtol=1e-12)
    high = brentq(excess, min(1.0, observed + beside), 1.0, args=(-1.0,), xtol=1e-12)
    return float(low), float(high)


def compute_detectable(num_discordant: int, num_all: int) -> float:
    """Difference in accuracy that McNemar's test would find with a power of 80 %, at this share of discordant pairs.

    Never below the one that so few discordant pairs can show at all, as when they all fall to one side.

    References:
        R. J. Connor, "Sample size for testing differences in proportions for the paired-sample design", 1987.
    """
    z = Z + _Z_POWER
    return float(z * np.sqrt(max(num_discordant, z**2)) / num_all)


def _check_alike(a: Predictions, b: Predictions) -> None:
    if a.split != b.split:
        raise DataError(f"A was evaluated on split {a.split!r}, B on {b.split!r}; expected the same; give --split")
    if a.class_names != b.class_names:
        alone = [sorted(set(x.class_names) - set(y.class_names))[:5] for x, y in ((a, b), (b, a))]
        raise DataError(
            f"A has {len(a.class_names)} classes, B has {len(b.class_names)}; only in A {alone[0]}, only in B "
            f"{alone[1]}; expected the same classes in the same order; compare models of one class list"
        )


def _pair(a: Predictions, b: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Order of the examples of a, and that of b, in which they stand side by side; those of one id in split order."""
    ids_a, ids_b = a.ids, b.ids
    if Counter(ids_a) != Counter(ids_b):
        ids_a, ids_b = _strip_folder(ids_a), _strip_folder(ids_b)  # the same files in another place
    missing_b, missing_a = Counter(ids_a) - Counter(ids_b), Counter(ids_b) - Counter(ids_a)
    if missing_a or missing_b:
        examples = [*missing_b, *missing_a][:3]
        raise DataError(
            f"{missing_b.total()} of the {len(a)} examples of A are not in B, {missing_a.total()} of the {len(b)} of B "
            f"are not in A, such as {examples}; expected the same examples; evaluate both on the same data"
        )
    return np.argsort(np.array(ids_a), kind="stable"), np.argsort(np.array(ids_b), kind="stable")


def _strip_folder(ids: Sequence[str]) -> tuple[str, ...]:
    """Paths without the folder that all of them lie in."""
    first, last = (name.split("/")[:-1] for name in (min(ids), max(ids)))  # what these two share, all share
    depth = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    return tuple(name.split("/", depth)[depth] for name in ids)
