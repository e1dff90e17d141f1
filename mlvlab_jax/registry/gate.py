"""Gates: each looks at the candidate, the champion and the policy, and says yes or no with its numbers."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mlvlab_jax.errors import DataError, PackageError, RegistryError
from mlvlab_jax.package.manifest import Manifest
from mlvlab_jax.registry.copies import verify_copy
from mlvlab_jax.registry.policy import PromotionPolicy
from mlvlab_jax.registry.store import ModelVersion

_NUM_WARM_UP = 10
_NUM_CALLS = 100


@dataclasses.dataclass(frozen=True)
class Contender:
    """A version and the verified package of it."""

    version: str
    package: Path
    manifest: Manifest

    @property
    def predictions(self) -> Path:
        """What it said of each example of its test."""
        return self.package / "evaluation" / "predictions.parquet"


class GateResult(NamedTuple):
    """What a gate said; the message has the numbers."""

    name: str
    passed: bool
    message: str


class RefusedError(RegistryError):
    """A promotion that at least one gate refused.

    Args:
        what: The promotion, 'digits 1.1.0 as champion'.
        results: What all gates said.
    """

    def __init__(self, what: str, results: tuple[GateResult, ...]) -> None:
        refusals = "\n".join(f"  {r.name}: {r.message}" for r in results if not r.passed)
        super().__init__(f"{what}: refused, nothing was changed\n{refusals}")
        self.results = results


def measure_latency_ms(package: Path) -> float:
    """Median of milliseconds of `predict_logits` on one image, after warming up.

    Raises:
        PackageError: The package does not load.
    """
    import numpy as np

    from mlvlab_jax.package.load import load_package

    model = load_package(package)
    image = np.zeros((1, *model.image), np.uint8)
    times = []
    for _ in range(_NUM_WARM_UP + _NUM_CALLS):
        start = time.perf_counter()
        model.predict_logits(image)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[_NUM_WARM_UP:])


def run_gates(
    candidate: Contender,
    champion: Contender | GateResult | None,
    policy: PromotionPolicy,
    *,
    measure_ms: Callable[[Path], float] = measure_latency_ms,
) -> tuple[GateResult, ...]:
    """What each gate says of the candidate.

    Args:
        candidate: The version that wants the alias.
        champion: The version that has it, or why it cannot be used, or None.
        policy: What is asked.
        measure_ms: Gives the latency of the package in a folder.
    """
    return (
        GateResult("digests", True, f"{len(candidate.manifest.files)} files"),
        check_data_version(candidate, policy),
        *check_floors(candidate, policy),
        check_champion(candidate, champion, policy),
        check_latency(candidate, policy, measure_ms=measure_ms),
    )


def check_digests(record: ModelVersion, package: Path | None) -> Contender | GateResult:
    """The contender, if its package is whole and the one that was registered; else the refusal."""
    if package is None:
        return GateResult("digests", False, f"{record.version} is a class; expected a package; register one")
    try:
        return Contender(record.version, package, verify_copy(package, record))
    except PackageError as error:
        return GateResult("digests", False, str(error))


def check_data_version(candidate: Contender, policy: PromotionPolicy) -> GateResult:
    """Whether the training data can be fetched again."""
    name, versions = "data version", candidate.manifest.data_version
    if policy.data_version == "any":
        return GateResult(name, True, "not asked for")
    if not versions:
        return GateResult(
            name,
            False,
            "none in the package; expected one; track the data with DVC and train again, or data_version=any",
        )
    dirty = [str(version.get("path")) for version in versions if version.get("dirty", True)]
    if policy.data_version == "committed" and dirty:
        return GateResult(name, False, f"{', '.join(dirty)}: not committed; expected a clean pointer in git")
    return GateResult(name, True, ", ".join(f"{v.get('path')} {str(v.get('md5'))[:12]}" for v in versions))


def check_floors(candidate: Contender, policy: PromotionPolicy) -> list[GateResult]:
    """Whether each metric reaches its floor: one result a metric."""
    results = []
    for metric, floor in policy.metric_floors.items():
        value = candidate.manifest.metrics.get(metric)
        if value is None:
            known = ", ".join(sorted(candidate.manifest.metrics)) or "none"
            results.append(GateResult(metric, False, f"not in the package; expected {floor:g} or more; there: {known}"))
        else:
            short = "" if value >= floor else f": {floor - value:.4g} short"
            results.append(GateResult(metric, value >= floor, f"{value:.4f}, floor {floor:g}{short}"))
    return results


def check_champion(
    candidate: Contender, champion: Contender | GateResult | None, policy: PromotionPolicy
) -> GateResult:
    """Whether the candidate is not worse, on the same examples, by more than chance and the tolerance allow."""
    from mlvlab_jax.evaluation.compare import compare
    from mlvlab_jax.evaluation.predictions import read_predictions

    name, tolerance = "champion", policy.tolerance_points
    if tolerance is None:
        return GateResult(name, True, "not asked for")
    if champion is None:
        return GateResult(name, True, "none yet to compare with")
    if isinstance(champion, GateResult):
        return GateResult(name, False, f"cannot be compared: {champion.message}; or tolerance_points=null")
    try:
        result = compare(read_predictions(champion.predictions), read_predictions(candidate.predictions))
    except DataError as error:
        what = f"cannot be compared with {champion.version} (A, candidate B): {error}; or tolerance_points=null"
        return GateResult(name, False, what)
    low, high = 100 * result.low, 100 * result.high
    message = (
        f"{100 * result.difference:+.2f} points against {champion.version} on {result.num_examples:,} examples, "
        f"95 % [{low:+.2f}, {high:+.2f}], tolerance {tolerance:g}"
    )
    if low > -tolerance:
        return GateResult(name, True, message)
    hint = "; more test examples narrow the interval" if 100 * result.difference > -tolerance else ""
    return GateResult(name, False, f"{message}: {-tolerance - low:.2f} points too low{hint}")


def check_latency(candidate: Contender, policy: PromotionPolicy, *, measure_ms: Callable[[Path], float]) -> GateResult:
    """Whether one image is answered within the budget."""
    name, budget = "latency", policy.latency_budget_ms
    if budget is None:
        return GateResult(name, True, "not asked for")
    try:
        found = measure_ms(candidate.package)
    except PackageError as error:
        return GateResult(name, False, str(error))
    over = "" if found <= budget else f": {found - budget:.3g} ms too slow"
    return GateResult(name, found <= budget, f"{found:.3g} ms an image, budget {budget:g} ms{over}")
