"""From a file of weights to the arrays of one network of ours: every array of both sides has its place, or is named."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mlvlab_jax.config.weights import WeightsConfig
from mlvlab_jax.errors import DataError
from mlvlab_jax.models.nets.api import Variables
from mlvlab_jax.models.stacking import unstack_blocks, unstacked_spec
from mlvlab_jax.plugins import MODELS, Spec
from mlvlab_jax.trees import named_leaves
from mlvlab_jax.types import ImageSpec
from mlvlab_jax.weights.adapt import ADAPTED, HEAD, Adaptation, Classes, adapt, fit_head
from mlvlab_jax.weights.files import WeightFile
from mlvlab_jax.weights.maps import PEERS
from mlvlab_jax.weights.table import Link, Peer, link, list_differences, theirs_like, to_ours


@dataclasses.dataclass(frozen=True)
class Target:
    """A network of ours: what weights are to fit."""

    spec: Spec
    image: ImageSpec
    classes: Classes

    def like(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and type of each of its arrays by name, as in a package; nothing is computed."""
        model = MODELS.build(
            unstacked_spec(self.spec), num_classes=self.classes.number, image=self.image, dtype=np.float32
        )
        variables: Variables = jax.eval_shape(model.init, jax.random.key(0))
        return dict(named_leaves(Variables(unstack_blocks(variables.params), variables.state)))


@dataclasses.dataclass(frozen=True)
class Imported:
    """Arrays of ours by name, float32; those of a new last layer are not among them. provenance: where they are from
    and what was done with them, as plain JSON values. notes: what the person should know, a line each.
    """

    arrays: dict[str, np.ndarray] = dataclasses.field(repr=False)
    provenance: dict[str, Any]
    notes: tuple[str, ...] = ()


def recognise(file: WeightFile) -> list[Peer]:
    """The kinds of weights that the names in `file` are of."""
    names = list(file.arrays)
    return [peer for peer in PEERS if all(any(re.fullmatch(mark, name) for name in names) for mark in peer.marks)]


def choose_peer(file: WeightFile, model: str) -> Peer:
    """The kind of weights in `file`, for a model of ours.

    Raises:
        DataError: They are of no known kind, or of another model.
    """
    found = recognise(file)
    for peer in found:
        if peer.model in (model, ""):
            return peer
    if found:
        kinds = ", ".join(f"{peer.format} {peer.model}" for peer in found)
        raise DataError(f"{file.source}: holds {kinds}; the network is {model}; take that model, or other weights")
    known = sorted({f"{peer.format} {peer.model}".strip() for peer in PEERS if peer.model in (model, "")})
    shown = ", ".join(sorted(file.arrays)[:5])
    raise DataError(
        f"{file.source}: weights of no known kind, such as {shown}; expected for {model} one of {', '.join(known)}"
    )


def import_weights(file: WeightFile, target: Target, options: WeightsConfig) -> Imported:
    """The arrays in `file` as those of `target`.

    Args:
        file: As `read_weights` gives it.
        target: The network.
        options: How they are made to fit.

    Raises:
        ConfigError: The network has arrays that this kind of file has no place for.
        DataError: The file is not the one meant, or does not fit: every array that is missing, extra or misshapen, and
            everything else that is wrong.
    """
    if options.sha256 not in (None, file.sha256):
        raise DataError(
            f"{file.source}: SHA-256 {file.sha256}, weights.sha256 is {options.sha256}; fetch the file that was meant"
        )
    peer, like = choose_peer(file, target.spec.name), target.like()
    links = link(peer, target.spec.params, image=target.image, like=like)
    fresh = options.head == "new"
    dropped = _find_dropped(peer, links, file, fresh=fresh)
    if fresh:
        links = [each for each in links if not set(each.ours) & set(HEAD)]
    arrays = {name: array for name, array in file.arrays.items() if name not in dropped}
    done = _convert(links, arrays, like, target, options, file.class_names)
    problems = [*_compare(links, arrays, like), *done.problems]
    problems += _list_misfits(links, arrays, done.arrays, like, said=problems)
    if problems:
        listed = "\n".join(f"  {line}" for line in problems)
        raise DataError(
            f"{file.source}: read as {peer.format} {target.spec.name}, {len(problems)} things do not fit:\n{listed}\n"
            "expected the arrays of the network that model.params describe; mlvlab weights inspect shows what is there"
        )
    dtypes = sorted({str(array.dtype) for array in arrays.values()})
    described = _describe(file, peer, done.changes, dtypes=dtypes, dropped=dropped, fresh=fresh)
    return Imported(done.arrays, described, notes=tuple(peer.list_notes(target.spec.params)))


def _find_dropped(peer: Peer, links: list[Link], file: WeightFile, *, fresh: bool) -> list[str]:
    """Names of theirs that nothing is computed with, and with a new last layer those of the old one."""
    old = {name for each in links if set(each.ours) & set(HEAD) for name in each.theirs} if fresh else set()
    return [
        name
        for name in file.arrays
        if re.fullmatch(peer.ignored, name) or name in old or (fresh and re.fullmatch(peer.of_head, name))
    ]


def _compare(links: list[Link], arrays: Mapping[str, np.ndarray], like: Mapping[str, Any]) -> list[str]:
    """A line for each array of theirs that is not as it must be."""
    loose = frozenset(name for each in links if ADAPTED.intersection(each.ours) for name in each.theirs)
    shapes = {name: tuple(array.shape) for name, array in arrays.items()}
    lines = list_differences(shapes, theirs_like(links, like), loose=loose)
    for each in links:
        for name in each.theirs:
            # bfloat16 is of no kind that numpy has a letter for.
            if name in arrays and arrays[name].dtype.kind not in "fV":
                lines.append(f"{name}: holds {arrays[name].dtype}; expected floating-point numbers")
            elif name in arrays and not np.isfinite(arrays[name].astype(np.float32)).all():
                lines.append(f"{name}: holds NaN or infinite values")
    return lines


def _convert(
    links: list[Link],
    arrays: Mapping[str, np.ndarray],
    like: Mapping[str, Any],
    target: Target,
    options: WeightsConfig,
    names: tuple[str, ...] | None,
) -> Adaptation:
    """What is there and can be read, as ours, made to fit."""
    expected = theirs_like(links, like)
    readable = [each for each in links if _is_readable(each, arrays, expected)]
    ours = {name: np.asarray(array, np.float32) for name, array in to_ours(readable, arrays).items()}
    shapes = {name: tuple(array.shape) for name, array in like.items()}
    body = adapt(ours, shapes, image=target.image, positions=options.positions, patches=options.patches)
    has = Classes(ours[HEAD[1]].shape[-1], names) if HEAD[1] in ours else None
    head = fit_head(ours, has=has, wants=target.classes, chosen=options.classes) if has else Adaptation({}, [], [])
    return Adaptation(body.arrays | head.arrays, [*body.changes, *head.changes], [*body.problems, *head.problems])


def _is_readable(each: Link, arrays: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether its arrays are there, in the shapes expected or, of one that is made to fit, near enough to convert."""
    found = {name: arrays[name].shape for name in each.theirs if name in arrays}
    if len(found) < len(each.theirs):
        return False
    if not ADAPTED.intersection(each.ours):
        return all(found[name] == expected[name] for name in found)
    ends = [shape[-1] == expected[name][-1] for name, shape in found.items()]
    return all(len(shape) == len(expected[name]) for name, shape in found.items()) and (len(found) == 1 or all(ends))


def _list_misfits(
    links: list[Link],
    arrays: Mapping[str, np.ndarray],
    made: Mapping[str, np.ndarray],
    like: Mapping[str, Any],
    *,
    said: list[str],
) -> list[str]:
    """A line for each array that was to be made to fit and could not be, where no other line names it."""
    named = set(re.split(r"[\s:;,]+", " ".join(said)))
    lines = []
    for each in links:
        fits = all(name in made and made[name].shape == like[name].shape for name in each.ours)
        known = {*each.ours, *each.theirs, *(["params/head"] if set(each.ours) & set(HEAD) else [])}
        if not fits and not known & named:
            shown = ", ".join(f"{name} {arrays[name].shape}" for name in each.theirs)
            wanted = ", ".join(f"{name} {tuple(like[name].shape)}" for name in each.ours)
            lines.append(f"misshapen {shown} in the file, the network takes {wanted}")
    return lines


def _describe(
    file: WeightFile, peer: Peer, changes: list[str], *, dtypes: list[str], dropped: list[str], fresh: bool
) -> dict[str, Any]:
    return {
        "path": file.source,
        "sha256": file.sha256,
        "container": file.container,
        "format": peer.format,
        "dtypes": dtypes,
        "changed": changes,
        "dropped": dropped,
        "new": list(HEAD) if fresh else [],
    }


def count_classes(file: WeightFile, spec: Spec, image: ImageSpec) -> int:
    """Number of outputs of the last layer in `file`.

    Raises:
        DataError: It has none.
    """
    peer = choose_peer(file, spec.name)
    like = Target(spec, image, Classes(1)).like()
    for each in link(peer, spec.params, image=image, like=like):
        if HEAD[1] in each.ours and each.theirs[0] in file.arrays:
            return int(file.arrays[each.theirs[0]].shape[-1])
    raise DataError(f"{file.source}: has no last layer; expected one, or a number of classes; give --num-classes")


def fill_head(imported: Imported, target: Target) -> Imported:
    """The same with zeros for what is new."""
    new = {name: np.zeros(array.shape, np.float32) for name, array in target.like().items()}
    return dataclasses.replace(imported, arrays=new | imported.arrays)
