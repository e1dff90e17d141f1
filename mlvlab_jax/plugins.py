"""Plugin tables: one file and one import line adds a model, source, optimiser, schedule, metric, tracker or drift test.

A table maps a name to a frozen dataclass of parameters and to the function that builds the thing. The tables live here,
below everything, so that the configuration can validate `{name, params}` without importing a model or jax; the modules
that fill them are imported on first use.
"""

import dataclasses
import difflib
import importlib
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from mlvlab_jax.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True)
class Spec:
    """A choice from a plugin table: which plugin, and its validated parameters."""

    name: str
    params: Any


class Variant(NamedTuple):
    """A published form of a model, for RGB images and 1,000 classes.

    params: what differs from the defaults. num_params: as published. gflops: billions of floating-point operations of
    the products and convolutions of one forward pass, a multiply-add as two. side: of its square images, in pixels.
    """

    params: dict[str, Any]
    num_params: int
    gflops: float
    side: int = 224


@dataclasses.dataclass(frozen=True)
class Entry:
    """One registered plugin.

    example: a tiny parameter set on which the contract tests run it. variants: its published forms by name.
    """

    name: str
    params: type
    build: Callable[..., Any]
    example: dict[str, Any]
    variants: Mapping[str, Variant] = MappingProxyType({})


class PluginTable:
    """Named plugins of one kind.

    Args:
        kind: Word for one plugin in messages ("model").
        home: Package whose import registers the built-in plugins.
    """

    def __init__(self, kind: str, *, home: str) -> None:
        self.kind = kind
        self._home = home
        self._entries: dict[str, Entry] = {}

    def register(
        self,
        name: str,
        params: type,
        *,
        example: dict[str, Any] | None = None,
        variants: Mapping[str, Variant] | None = None,
    ) -> Callable[[F], F]:
        """Registers the decorated build function `build(params, **context)` under `name`.

        Raises:
            ValueError: The name is taken.
        """

        def decorate(build: F) -> F:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = Entry(name, params, build, example or {}, variants or {})
            return build

        return decorate

    def names(self) -> list[str]:
        """Sorted names of everything registered."""
        importlib.import_module(self._home)
        return sorted(self._entries)

    def entry(self, name: str) -> Entry:
        """The entry called `name`.

        Raises:
            ConfigError: There is none; the message lists what there is.
        """
        names = self.names()
        if name not in self._entries:
            raise ConfigError(
                f"unknown {self.kind} {name!r}{did_you_mean(name, names)} (there are: {', '.join(names)})",
            )
        return self._entries[name]

    def build(self, spec: Spec, **context: Any) -> Any:
        """Builds what `spec` names; `context` is what every plugin of this kind is given."""
        return self.entry(spec.name).build(spec.params, **context)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """'; did you mean 'x'?' for the nearest known word, also found by its initials (lr -> learning_rate), or ''."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    initials = [k for k in known if "".join(part[0] for part in k.split("_") if part) == word]
    inside = [k for k in known if word in k.split("_")]
    found = initials or near or inside
    return f"; did you mean {found[0]!r}?" if found else ""


MODELS = PluginTable("model", home="mlvlab_jax.models")
SOURCES = PluginTable("data source", home="mlvlab_jax.data.sources")
OPTIMIZERS = PluginTable("optimizer", home="mlvlab_jax.optim.optimizers")
SCHEDULES = PluginTable("schedule", home="mlvlab_jax.optim.schedules")
METRICS = PluginTable("metric", home="mlvlab_jax.metrics")
TRACKERS = PluginTable("tracker", home="mlvlab_jax.tracking")
DRIFT_TESTS = PluginTable("drift test", home="mlvlab_jax.monitoring.drift")
TABLES = (MODELS, SOURCES, OPTIMIZERS, SCHEDULES, METRICS, TRACKERS, DRIFT_TESTS)
