"""Metric types: CLU's protocol (`empty`, `from_model_output`, `merge`, `compute`), in two kinds.

`Counted` metrics are sums: int32 counts and float32 sums of one batch on the device, int64 and float64 of all batches
on the host. `Collected` metrics keep the rows themselves, for numbers that no sum gives. Either way the division
happens once, after the last batch, so that any mesh and any split into batches give the same number.

A metric is made of two pure functions: one from a batch to its sums or rows, one from those of all batches to the
result. The first is written for whatever array library its arguments belong to (`logits.__array_namespace__()`), and
thus runs inside jit as well as on plain numpy. Any other subclass of `clu.metrics.Metric` works in their place.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

import clu.metrics
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from mlvlab_jax.errors import ConfigError
from mlvlab_jax.plugins import METRICS, Spec

Arrays: TypeAlias = Mapping[str, Any]
Target: TypeAlias = Literal["class", "labels", "any"]
Result: TypeAlias = Any
"""A float, an array, or a mapping from names to either."""


class Metric(clu.metrics.Metric):
    """What this package's metrics have beside CLU's methods.

    Attributes:
        name: Key in the results.
        result: "array" where `compute` gives one: it cannot be monitored or drawn as a curve.
        target: Labels it takes: "class" for one class an image, int (b); "labels" for 0 or 1 of each class, int (b k);
            "any" for either.
    """

    name: ClassVar[str]
    result: ClassVar[Literal["scalar", "array"]] = "scalar"
    target: ClassVar[Target] = "class"
    measure: ClassVar[Callable[[Any, Any, Any], Arrays]]
    finish: ClassVar[Callable[[Arrays], Result]]


@flax.struct.dataclass
class Counted(Metric):
    """Sums over examples. Merging adds; merging into `empty()` on the host widens to int64 and float64 first."""

    totals: dict[str, Any]

    @classmethod
    def empty(cls) -> "Counted":
        """No examples."""
        return cls(totals={})

    @classmethod
    def from_model_output(cls, *, logits: Any, labels: Any, mask: Any = None, **_: Any) -> "Counted":
        """Sums of one batch: logits (b k), labels as `target` says, mask (b), 0 for rows that do not count."""
        return cls(totals=dict(cls.measure(logits, labels, _kept(labels, mask))))

    def merge(self, other: "Counted") -> "Counted":
        """The sums of both."""
        zero = np.int64(0)  # numpy takes int32 + int64 to int64 and float32 + int64 to float64; jax keeps 32 bits
        names = self.totals | other.totals
        return type(self)(totals={n: self.totals.get(n, zero) + other.totals.get(n, zero) for n in names})

    def compute(self) -> Result:
        """The result of all merged batches; nan where there was none."""
        totals = {name: np.asarray(value) for name, value in self.totals.items()}
        return type(self).finish(totals) if totals else float("nan")


@flax.struct.dataclass
class Collected(Metric):
    """Rows of examples, one chunk a batch; kept on the host, 4 bytes a number. Merging appends."""

    chunks: tuple[dict[str, Any], ...]

    @classmethod
    def empty(cls) -> "Collected":
        """No examples."""
        return cls(chunks=())

    @classmethod
    def from_model_output(cls, *, logits: Any, labels: Any, mask: Any = None, **_: Any) -> "Collected":
        """Rows of one batch: logits (b k), labels as `target` says, mask (b), 0 for rows that do not count."""
        kept = _kept(labels, mask)
        return cls(chunks=({**cls.measure(logits, labels, kept), "kept": kept},))

    def merge(self, other: "Collected") -> "Collected":
        """The rows of both, in this order."""
        return type(self)(chunks=self.chunks + other.chunks)

    def compute(self) -> Result:
        """The result of all rows with mask 1; nan where there was none."""
        kept = [np.asarray(chunk["kept"]) for chunk in self.chunks]
        if not any(rows.any() for rows in kept):
            return float("nan")
        names = self.chunks[0].keys() - {"kept"}
        pick = {n: [np.asarray(c[n])[rows] for c, rows in zip(self.chunks, kept, strict=True)] for n in names}
        return type(self).finish({name: np.concatenate(parts) for name, parts in pick.items()})


def make_counted(
    name: str,
    *,
    measure: Callable[[Any, Any, Any], Arrays],
    finish: Callable[[Arrays], Result],
    result: Literal["scalar", "array"] = "scalar",
    target: Target = "class",
) -> type[Metric]:
    """The metric type of sums.

    Args:
        name: Key in the results.
        measure: (logits float (b k), labels int, kept bool (b)) -> sums over the kept rows, int32 or float32.
        finish: Those sums over all batches -> the result.
        result: Whether that is a number or an array.
        target: Labels it takes.
    """
    return _make(Counted, name, measure=measure, finish=finish, result=result, target=target)


def make_collected(
    name: str,
    *,
    measure: Callable[[Any, Any, Any], Arrays],
    finish: Callable[[Arrays], Result],
    result: Literal["scalar", "array"] = "scalar",
    target: Target = "class",
) -> type[Metric]:
    """The metric type of rows; as `make_counted`, but `measure` gives arrays with a row for each example."""
    return _make(Collected, name, measure=measure, finish=finish, result=result, target=target)


def _make(kind: type[Metric], name: str, *, measure: Any, finish: Any, result: str, target: str) -> type[Metric]:
    functions = {"measure": staticmethod(measure), "finish": staticmethod(finish)}
    made: Any = type(name, (kind,), {"name": name, "result": result, "target": target, **functions})
    return flax.struct.dataclass(made)


def count_in_bins(index: Any, num_bins: int) -> Any:
    """How often each of 0 .. num_bins - 1 occurs in `index` (b), int (num_bins); `num_bins` itself is not counted."""
    if isinstance(index, np.ndarray):
        return np.bincount(index, minlength=num_bins + 1)[:num_bins]
    return jnp.bincount(index, length=num_bins + 1)[:num_bins]


def _kept(labels: Any, mask: Any) -> Any:
    xp = labels.__array_namespace__()
    return xp.ones(labels.shape[0], bool) if mask is None else mask > 0


class Measured(NamedTuple):
    """Results by name: those that are numbers, and those that are arrays."""

    scalars: dict[str, float]
    arrays: dict[str, np.ndarray]


def make_metrics(specs: Iterable[Spec]) -> dict[str, type[clu.metrics.Metric]]:
    """The metric types `specs` name, by the names of their results (of the plugin, for a type without a name).

    Raises:
        ConfigError: Two have one name.
    """
    metrics: dict[str, type[clu.metrics.Metric]] = {}
    for spec in specs:
        metric = METRICS.build(spec)
        name = getattr(metric, "name", spec.name)
        if name in metrics:
            raise ConfigError(f"{name!r} is measured twice; expected each metric once", path="evaluation.metrics")
        metrics[name] = metric
    return metrics


def merge_batch(
    merged: Mapping[str, clu.metrics.Metric], batch: Mapping[str, clu.metrics.Metric]
) -> dict[str, clu.metrics.Metric]:
    """`merged` (empty before the first) and the metrics of one more batch, on the host.

    The first batch is widened to int64 and float64; numpy keeps that width in all sums that follow, also in those of
    types that are not of this package.
    """
    fetched = jax.device_get(dict(batch))
    return {n: merged[n].merge(m) if n in merged else jax.tree.map(_widen, m) for n, m in fetched.items()}


def _widen(leaf: Any) -> Any:
    wide = {"i": np.int64, "u": np.int64, "f": np.float64}.get(np.asarray(leaf).dtype.kind)
    return np.asarray(leaf, wide)


def compute_results(metrics: Mapping[str, clu.metrics.Metric]) -> Measured:
    """The results of all metrics; a mapping stands for its items, by their own names."""
    scalars, arrays = {}, {}
    for name, metric in metrics.items():
        result = metric.compute()
        for key, value in (result if isinstance(result, Mapping) else {name: result}).items():
            if np.ndim(value):
                arrays[key] = np.asarray(value)
            else:
                scalars[key] = float(value)
    return Measured(scalars, arrays)
