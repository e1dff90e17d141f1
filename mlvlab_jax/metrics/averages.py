"""From one number a class to the number that is reported."""

from typing import Any, Literal, TypeAlias

import numpy as np

Average: TypeAlias = Literal["micro", "macro", "weighted", "none"]
ZeroDivision: TypeAlias = Literal[0, 1, "nan"]


def divide(value: Any, by: Any, *, zero_division: float) -> np.ndarray:
    """The ratio in float64, and `zero_division` where `by` is 0."""
    value, by = np.asarray(value, np.float64), np.asarray(by, np.float64)
    return np.divide(value, by, out=np.full(np.broadcast_shapes(value.shape, by.shape), zero_division), where=by != 0)


def average_classes(values: np.ndarray, support: np.ndarray, *, average: Average) -> Any:
    """One number from one a class.

    Args:
        values: (k), nan for a class without a value: it is left out.
        support: Examples of each class (k).
        average: macro: each class alike; weighted: by its support, alike where there is none; none: the values.

    Returns:
        A float, nan where no class has a value; float64 (k) for none.
    """
    if average == "none":
        return values
    there = np.isfinite(values)
    weights = there * (support if average == "weighted" else 1)
    if not weights.any():
        weights = there
    return float(divide((np.nan_to_num(values) * weights).sum(), weights.sum(), zero_division=float("nan")))


def suffixed(name: str, average: Average) -> str:
    """Name of a result: `name` for macro, else with the average ("precision_micro", "precision_per_class")."""
    return {"macro": name, "none": f"{name}_per_class"}.get(average, f"{name}_{average}")


def result_of(average: Average) -> Literal["scalar", "array"]:
    """What kind of result an average gives."""
    return "array" if average == "none" else "scalar"
