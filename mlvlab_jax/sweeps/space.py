"""What a sweep varies, how it chooses and when it gives a trial up: the space file."""

import dataclasses
import itertools
import json
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, TypeAdapter, field_validator, model_validator

from mlvlab_jax.config.fields import OPERATIONAL, configclass
from mlvlab_jax.config.load import make_override, override_config, read_section
from mlvlab_jax.config.reader import Document
from mlvlab_jax.config.schema import Config
from mlvlab_jax.config.training import Positive
from mlvlab_jax.errors import ConfigError

Count = Annotated[int, Field(ge=0)]


def _check_number(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"expected a number, found {value!r}")
    return value


Number = Annotated[int | float, PlainValidator(_check_number)]


@configclass
class Dimension:
    """The values one setting may take: `values`, or everything from `low` to `high`; whole numbers give whole ones."""

    values: tuple[Any, ...] | None = None
    """A list to choose from: numbers, words, lists or whole sections such as {name: sgd, params: {momentum: 0.9}}."""
    low: Number | None = None
    """Smallest value."""
    high: Number | None = None
    """Largest value."""
    log: bool = False
    """Draw the logarithm evenly: as many trials from 0.0001 to 0.001 as from 0.001 to 0.01."""
    step: Number | None = None
    """Distance between neighbours, from low on; null: every number, or every whole number."""

    @model_validator(mode="after")
    def _check(self) -> "Dimension":
        if self.values is not None:
            if self.low is not None or self.high is not None or self.log or self.step is not None:
                raise ValueError("values cannot be together with low, high, log or step; keep one of them")
            if not self.values or len(set(map(encode, self.values))) < len(self.values):
                raise ValueError(f"values {list(self.values)} must be different from one another, and one at least")
            return self
        if self.low is None or self.high is None:
            raise ValueError("expected {low: ..., high: ...} or {values: [...]}")
        self._check_range(self.low, self.high)
        return self

    def _check_range(self, low: int | float, high: int | float) -> None:
        if low >= high:
            raise ValueError(f"low {low} is not below high {high}")
        if self.log and (low <= 0 or self.step is not None):
            raise ValueError("log needs low above 0 and no step")
        if self.step is None:
            return
        if self.step <= 0 or (self.is_whole and not isinstance(self.step, int)):
            raise ValueError(f"step {self.step} must be above 0, and whole where low and high are")
        over = (Decimal(str(high)) - Decimal(str(low))) % Decimal(str(self.step))
        if over:
            reached = Decimal(str(high)) - over
            raise ValueError(f"steps of {self.step} from {low} do not end at high {high}; {reached} fits")

    @property
    def is_whole(self) -> bool:
        """Whether all values are whole numbers between low and high."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def corners(self) -> list[Any]:
        """Every listed value, or both ends."""
        return list(self.values) if self.values is not None else [self.low, self.high]

    def points(self) -> list[Any] | None:
        """All values, or None where there is no end of them."""
        if self.values is not None:
            return list(self.values)
        step = self.step or (1 if self.is_whole else None)
        if step is None or self.log or self.low is None or self.high is None:
            return None
        num = int((Decimal(str(self.high)) - Decimal(str(self.low))) / Decimal(str(step))) + 1
        exact = [Decimal(str(self.low)) + i * Decimal(str(step)) for i in range(num)]
        return [int(value) if self.is_whole else float(value) for value in exact]


@configclass
class SamplerConfig:
    """How the next trial is chosen; trial t depends on the seed, on t and on the results before it."""

    name: Literal["tpe", "random", "grid"] = "tpe"
    """tpe: near what was good so far. random: anywhere. grid: every combination once, in random order."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Everything drawn is a function of this number."""
    startup_trials: Positive = 10
    """tpe: trials drawn at random before it has seen enough to choose."""


@configclass
class PrunerConfig:
    """When a trial is given up; trials are compared at the same number of evaluations on the validation split."""

    name: Literal["median", "halving", "none"] = "median"
    """median: its best so far is worse than the median of the others there. halving: it is not in the best third
    after 1, 3, 9, ... evaluations (asynchronous successive halving). none: never."""
    warmup_trials: Count = 4
    """median: trials run to the end before any is given up."""
    warmup_evaluations: Positive = 1
    """Evaluations of a trial before it may be given up; for halving also where the first comparison is."""


@configclass
class SweepSpace:
    """One sweep."""

    metric: str = "validation/accuracy"
    """What is compared, as metrics.jsonl names it: at the checkpoint that a run calls its best."""
    mode: Literal["min", "max"] = "max"
    """Whether lower or higher is better."""
    trials: Positive = Field(default=20, json_schema_extra=OPERATIONAL)
    """Trials in all, failed ones included; may be raised later to go on."""
    sampler: SamplerConfig = Field(default_factory=SamplerConfig)
    """How the next trial is chosen."""
    pruner: PrunerConfig = Field(default_factory=PrunerConfig)
    """When a trial is given up."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Settings that differ from the configuration in every trial, such as fewer epochs: dotted path -> value."""
    space: dict[str, Dimension]
    """Settings that differ from trial to trial: dotted path -> values."""

    @field_validator("metric")
    @classmethod
    def _of_validation(cls, metric: str) -> str:
        if not metric.startswith("validation/"):
            raise ValueError(
                f"{metric!r} cannot be chosen by; expected validation/NAME, for example validation/accuracy: "
                "a choice by the test split would make its numbers too good"
            )
        return metric

    @model_validator(mode="after")
    def _check(self) -> "SweepSpace":
        if not self.space:
            raise ValueError("space: names nothing to vary; expected for example training.learning_rate: {low, high}")
        endless = [path for path, dimension in self.space.items() if dimension.points() is None]
        if self.sampler.name == "grid" and endless:
            raise ValueError(f"a grid needs values or a step for {', '.join(endless)}; give them, or take random")
        if self.pruner.name != "none" and "evaluation.every_epochs" in self.space:
            raise ValueError("evaluation.every_epochs: with it varied trials cannot be compared; set pruner.name: none")
        return self

    def grid(self) -> dict[str, list[Any]]:
        """All values of every setting; only where the sampler is grid."""
        return {path: dimension.points() or [] for path, dimension in self.space.items()}

    def num_trials(self, wanted: int | None = None) -> int:
        """Trials in all: `wanted`, or as the file says, and never more than a grid has points."""
        total = wanted or self.trials
        if self.sampler.name == "grid":
            total = min(total, len(list(itertools.product(*self.grid().values()))))
        return total


def encode(value: Any) -> str:
    """A value as text that an override `path=text` and `json.loads` read back."""
    return json.dumps(value)


@dataclasses.dataclass(frozen=True)
class LoadedSpace:
    """A valid space, and where each of its values was written."""

    space: SweepSpace
    document: Document

    def fix(self, config: Config, *, overridden: frozenset[str] = frozenset()) -> Config:
        """The configuration all trials share; every listed value and both ends of every range are tried on it.

        Args:
            config: What the sweep starts from.
            overridden: Paths that were given on the command line.

        Raises:
            ConfigError: A path does not exist, a value is not valid there, or a path is set twice.
        """
        places = self.document.places
        for path in sorted(overridden & (self.space.space.keys() | self.space.overrides.keys())):
            place = places.get(("space", path)) or places[("overrides", path)]
            raise ConfigError(f"{place}: {path}: is set here and on the command line; remove one")
        for path in sorted(self.space.space.keys() & self.space.overrides.keys()):
            raise ConfigError(f"{places[('overrides', path)]}: {path}: is in 'space' as well; remove one")
        fixed = [
            make_override(path, self.space.overrides[path], place=places[("overrides", path)])
            for path in sorted(self.space.overrides)
        ]
        base = override_config(config, fixed)
        for path, dimension in self.space.space.items():
            for value in dimension.corners():
                self._try(base, {path: value})
        return base

    def _try(self, base: Config, chosen: dict[str, Any]) -> None:
        first = {path: dimension.corners()[0] for path, dimension in self.space.space.items()}
        places = {path: self.document.places[("space", path)] for path in first}
        configure(base, first | chosen, places=places)


def load_space(path: Path) -> LoadedSpace:
    """Reads a space file.

    Raises:
        ConfigError: Everything that is wrong with it, one line each, with file:line, path, value and expectation.
    """
    return LoadedSpace(*read_section(SweepSpace, path))


def configure(base: Config, params: dict[str, Any], *, places: dict[str, str] | None = None) -> Config:
    """The configuration of a trial: `params` (dotted path -> value) over `base`, a plugin's name before its params."""
    named = places or {}
    layers = [make_override(path, params[path], place=named.get(path, "")) for path in sorted(params)]
    return override_config(base, layers)


def space_tree(space: SweepSpace) -> dict[str, Any]:
    """The space as plain JSON values, defaults included."""
    tree: dict[str, Any] = TypeAdapter(SweepSpace).dump_python(space, mode="json")
    return tree
