"""Whose array is which: rules between our names and another library's, read in both directions."""

import difflib
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mlvlab_jax.errors import ConfigError
from mlvlab_jax.types import ImageSpec
from mlvlab_jax.weights.transforms import KERNEL, LINEAR, SAME, Transform

#: Beyond so many names a near one is no longer looked for: each costs a comparison with all others.
_MAX_NEAR = 60


class Rule(NamedTuple):
    """ours, theirs: templates of names, in the order of the transform's arrays. `{i}` stands for a number, which in
    theirs may be `{i+1}`. constants: templates of names of theirs that are always written and never read, and their
    values.
    """

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    transform: Transform = SAME
    constants: tuple[tuple[str, Any], ...] = ()


class Link(NamedTuple):
    """A rule with the names it stands for in one network."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    transform: Transform
    constants: tuple[tuple[str, Any], ...]


class Peer(NamedTuple):
    """A library's weights of one kind of network.

    format: as the commands name it. model: name of our plugin. rules: of (its parameters, image, our names); the first
    match wins. marks: regular expressions, each of which some name in such a file matches. ignored: one of names that
    hold nothing the network computes with. of_head: of those that only a head is made of that has no place in ours, and
    that go with it. settings: of our parameters with which the numbers are theirs, where names and shapes do not tell.
    """

    format: str
    model: str
    rules: Callable[[Any, ImageSpec, frozenset[str]], Sequence[Rule]]
    marks: tuple[str, ...]
    ignored: str = "^$"
    of_head: str = "^$"
    settings: tuple[tuple[str, Any], ...] = ()

    def list_notes(self, params: Any) -> list[str]:
        """A line for each parameter that makes other numbers of these weights than they make there."""
        return [
            f"{self.format} computes with model.params.{name}: {value}, the network with {getattr(params, name)}: the "
            "same weights give other numbers"
            for name, value in self.settings
            if getattr(params, name) != value
        ]


def rule(ours: str, theirs: str, transform: Transform = SAME) -> Rule:
    """One parameter of ours, one of theirs."""
    return Rule((f"params/{ours}",), (theirs,), transform)


def dense(ours: str, theirs: str, transform: Transform = LINEAR) -> list[Rule]:
    """A matrix and its bias."""
    return [rule(f"{ours}/kernel", f"{theirs}.weight", transform), rule(f"{ours}/bias", f"{theirs}.bias")]


def conv(ours: str, theirs: str) -> list[Rule]:
    """A convolution and, where there is one, its bias."""
    return dense(ours, theirs, KERNEL)


def norm(ours: str, theirs: str) -> list[Rule]:
    """Scale and bias of a normalisation."""
    return [rule(f"{ours}/scale", f"{theirs}.weight"), rule(f"{ours}/bias", f"{theirs}.bias")]


def batch_norm(ours: str, theirs: str) -> list[Rule]:
    """The same with the statistics; torch counts its batches too, which nothing is computed with."""
    stats = f"state/batch_stats/{ours}"
    counter = ((f"{theirs}.num_batches_tracked", np.int64(0)),)
    mean = Rule((f"{stats}/mean",), (f"{theirs}.running_mean",), SAME, counter)
    return [*norm(ours, theirs), mean, Rule((f"{stats}/var",), (f"{theirs}.running_var",))]


def link(peer: Peer, params: Any, *, image: ImageSpec, like: Mapping[str, Any]) -> list[Link]:
    """The rules of `peer` for one network of ours.

    Args:
        peer: Whose names.
        params: Parameters of the model plugin.
        image: What the network is given.
        like: Our arrays or their shapes, by name.

    Raises:
        ConfigError: Arrays of ours that theirs have no place for, all of them.
    """
    rules = peer.rules(params, image, frozenset(like))
    links: list[Link] = []
    placed: set[str] = set()
    homeless = []
    for name in like:
        if name in placed:
            continue
        found = next((made for made in (_apply(each, name) for each in rules) if made), None)
        if found is None or not set(found.ours) <= like.keys():
            homeless.append(name)
            continue
        links.append(found)
        placed.update(found.ours)
    if homeless:
        listed = "\n".join(f"  {name} {tuple(like[name].shape)}" for name in homeless)
        raise ConfigError(
            f"{peer.format} has no place for {len(homeless)} arrays of this {peer.model}:\n{listed}\n"
            "expected a network that both have; leave the options out that these are of, or take another format",
            path="model.params",
        )
    return links


def _apply(each: Rule, name: str) -> Link | None:
    """`each` for the array of ours called `name`, if its first template matches."""
    found = _compile(each.ours[0]).fullmatch(name)
    if found is None:
        return None
    numbers = {key: int(value) for key, value in found.groupdict().items()}
    fill = functools.partial(_fill, numbers=numbers)
    constants = tuple((fill(template), value) for template, value in each.constants)
    return Link(tuple(map(fill, each.ours)), tuple(map(fill, each.theirs)), each.transform, constants)


@functools.cache
def _compile(template: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w)\}", template)
    made = [re.escape(part) if i % 2 == 0 else rf"(?P<{part}>\d+)" for i, part in enumerate(parts)]
    return re.compile("".join(made))


def _fill(template: str, *, numbers: Mapping[str, int]) -> str:
    return re.sub(r"\{(\w)(\+1)?\}", lambda found: str(numbers[found[1]] + (1 if found[2] else 0)), template)


def theirs_like(links: Iterable[Link], like: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shape of every array of theirs, by name, for ours like `like`; nothing is computed."""
    shapes: dict[str, tuple[int, ...]] = {}
    for each in links:
        ours = [jax.ShapeDtypeStruct(like[name].shape, "float32") for name in each.ours]
        theirs = jax.eval_shape(each.transform.to_theirs, *ours)
        shapes |= {name: tuple(array.shape) for name, array in zip(each.theirs, theirs, strict=True)}
    return shapes


def to_ours(links: Iterable[Link], arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Our arrays of those of theirs."""
    made: dict[str, Any] = {}
    for each in links:
        made |= zip(each.ours, each.transform.to_ours(*(arrays[name] for name in each.theirs)), strict=True)
    return made


def to_theirs(links: Iterable[Link], arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Their arrays of ours, and the constants."""
    made: dict[str, Any] = {}
    for each in links:
        made |= zip(each.theirs, each.transform.to_theirs(*(arrays[name] for name in each.ours)), strict=True)
        made |= each.constants
    return made


def list_differences(
    found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], *, loose: frozenset[str]
) -> list[str]:
    """A line for each array that is missing, extra or of another shape, with the nearest name of the other side.

    Args:
        found: Shapes in the file.
        expected: Shapes that the network takes.
        loose: Names whose shapes may differ, as long as the number of dims does not.
    """
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    lines = [f"missing {name} {expected[name]}{_near(name, extra, len(missing))}" for name in missing]
    lines += [f"extra {name} {found[name]}{_near(name, missing, len(extra))}" for name in extra]
    for name in sorted(expected.keys() & found.keys()):
        same_rank = len(found[name]) == len(expected[name])
        if found[name] != expected[name] and not (name in loose and same_rank):
            lines.append(f"misshapen {name}: {found[name]} in the file, the network takes {expected[name]}")
    return lines


def _near(name: str, others: Sequence[str], number: int) -> str:
    near = difflib.get_close_matches(name, others, n=1, cutoff=0.8) if number <= _MAX_NEAR else []
    return f"; near: {near[0]}" if near else ""
