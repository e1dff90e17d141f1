"""What a version must show before an alias may point to it."""

from typing import Annotated, Literal

from pydantic import Field

from mlvlab_jax.config.fields import configclass


@configclass
class PromotionPolicy:
    """Gates of a promotion; the files of the package must be good under any policy."""

    data_version: Literal["committed", "recorded", "any"] = "recorded"
    """recorded: DVC knows the training data, so that they can be fetched again. committed: and git leads back to the
    very bytes. any: no question asked, as for data sets that come with a library."""
    metric_floors: dict[str, float] = Field(default_factory=dict)
    """Least values, as {test/accuracy: 0.95}, of the metrics in the package."""
    tolerance_points: Annotated[float, Field(ge=0)] | None = 2.0
    """The 95 % interval of (candidate - champion) accuracy, on the same examples, must lie above minus this, in
    percentage points. Two is what a few hundred examples can show; with thousands ask for less. null: not compared."""
    latency_budget_ms: Annotated[float, Field(gt=0)] | None = None
    """Most milliseconds for one image, the median of many calls on this machine; null: not measured."""
