"""Weights made for other images or classes, made to fit: positions, patches, channels and the last layer."""

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mlvlab_jax.plugins import did_you_mean
from mlvlab_jax.types import ImageSpec

HEAD = ("params/head/kernel", "params/head/bias")
POSITIONS = "params/pos_embed"
#: The first layer of a network, which sees the channels of the image.
FIRST = ("params/patch_embed/kernel", "params/stage0_reduce/kernel", "params/Conv_0/kernel", "params/stem/kernel")
#: What may come in another shape than the network takes.
ADAPTED = frozenset({*HEAD, POSITIONS, *FIRST})


class Classes(NamedTuple):
    """names: of the outputs; None where nobody says. number: of them."""

    number: int
    names: tuple[str, ...] | None = None


class Adaptation(NamedTuple):
    """The arrays that fit, a line for each that was changed, and a line for each that could not be."""

    arrays: dict[str, np.ndarray]
    changes: list[str]
    problems: list[str]


def adapt(
    arrays: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    image: ImageSpec,
    positions: Literal["bicubic", "bilinear"],
    patches: Literal["refuse", "resize"],
) -> Adaptation:
    """All but the last layer.

    Args:
        arrays: Ours by name.
        shapes: Those that the network takes.
        image: What it is given.
        positions: Filter of position embeddings.
        patches: What is done with patches of another size.
    """
    done = Adaptation(dict(arrays), [], [])
    side = None
    for name in (*FIRST, POSITIONS):
        if name not in arrays or name not in shapes:
            continue
        found, wanted = arrays[name], shapes[name]
        if name == POSITIONS:
            made = _fit_positions(found, wanted, image, positions, side=side)
        elif found.ndim == 4:
            made = _fit_channels(found, wanted)
        else:
            side = math.isqrt(wanted[0] // image.channels)
            made = _fit_patches(found, wanted, image.channels, patches)
        if isinstance(made, str):
            done.problems.append(f"{name}: {made}")
        elif made is not found:
            done.arrays[name] = made
            done.changes.append(f"{name}: {tuple(found.shape)} -> {wanted}")
    return done


def fit_head(
    arrays: Mapping[str, np.ndarray], *, has: Classes, wants: Classes, chosen: tuple[int | str, ...] | None
) -> Adaptation:
    """The last layer for the classes wanted.

    Args:
        arrays: Ours by name; those of the last layer are looked at.
        has: Classes of the file.
        wants: Those of the data.
        chosen: Outputs of the file to take, by number or name, in the order of the data's classes.
    """
    head = {name: arrays[name] for name in HEAD if name in arrays}
    if chosen is None:
        return Adaptation(head, [], _compare_classes(has, wants))
    if len(chosen) != wants.number:
        return Adaptation(
            head, [], [f"weights.classes names {len(chosen)} outputs, the data has {wants.number} classes"]
        )
    rows, problems = [], []
    for each in chosen:
        row = (has.names.index(each) if has.names and each in has.names else None) if isinstance(each, str) else each
        if row is None or not 0 <= row < has.number:
            near = did_you_mean(str(each), has.names or ())
            known = f"numbers from 0 to {has.number - 1}" + (" and its names" if has.names else "; it has no names")
            problems.append(f"weights.classes: {each!r} is no output of the file{near}; it has {known}")
        else:
            rows.append(row)
    if problems:
        return Adaptation(head, [], problems)
    taken = {name: array[..., rows] for name, array in head.items()}
    return Adaptation(taken, [f"params/head: outputs {rows} of {has.number}"], [])


def _compare_classes(has: Classes, wants: Classes) -> list[str]:
    fix = "take weights.head: new, or say with weights.classes which outputs are meant"
    if has.number != wants.number:
        return [f"params/head: made for {has.number} classes, the data has {wants.number}; {fix}"]
    if has.names is None or wants.names is None or has.names == wants.names:
        return []
    other = [f"{a!r} for {b!r}" for a, b in zip(has.names, wants.names, strict=True) if a != b]
    return [
        f"params/head: made for other classes ({len(other)} of {has.number}, such as {', '.join(other[:3])}); {fix}"
    ]


def _fit_channels(found: np.ndarray, wanted: tuple[int, ...]) -> np.ndarray | str:
    """A kernel (h, w, c, d) of colours for grey images: a grey image has its value in every channel."""
    if found.shape == wanted:
        return found
    if found.shape[:2] == wanted[:2] and found.shape[3:] == wanted[3:] and (found.shape[2], wanted[2]) == (3, 1):
        return found.sum(axis=2, keepdims=True)
    return f"{tuple(found.shape)} in the file, the network takes {wanted}"


def _fit_patches(
    found: np.ndarray, wanted: tuple[int, ...], channels: int, patches: Literal["refuse", "resize"]
) -> np.ndarray | str:
    """A matrix on squares of pixels, (side * side * c, d)."""
    shown = f"{tuple(found.shape)} in the file, the network takes {wanted}"
    side = math.isqrt(wanted[0] // channels)
    theirs = next((c for c in (channels, 3, 1) if math.isqrt(found.shape[0] // c) ** 2 * c == found.shape[0]), None)
    if found.shape == wanted:
        return found
    if found.shape[1] != wanted[1] or theirs is None or (theirs, channels) not in {(theirs, theirs), (3, 1)}:
        return shown
    old = math.isqrt(found.shape[0] // theirs)
    if old != side and patches == "refuse":
        return (
            f"made for patches of {old} pixels, the network has {side}; take model.params.patch_size: {old}, or "
            "weights.patches: resize"
        )
    kernel = found.reshape(old, old, theirs, -1)
    kernel = kernel if theirs == channels else kernel.sum(axis=2, keepdims=True)
    kernel = kernel if old == side else _resample_patches(kernel, side)
    return kernel.reshape(wanted)


def _resample_patches(kernel: np.ndarray, side: int) -> np.ndarray:
    """The kernel that answers to an enlarged patch as the given one does to the patch.

    References:
        L. Beyer et al., "FlexiViT: One Model for All Patch Sizes", 2022.
    """
    old = kernel.shape[0]
    basis = jnp.eye(old * old).reshape(-1, old, old)
    resize = np.asarray(jax.image.resize(basis, (old * old, side, side), "cubic")).reshape(old * old, -1)
    moved = np.linalg.pinv(resize.astype(np.float64)) @ kernel.reshape(old * old, -1).astype(np.float64)
    return moved.astype(np.float32).reshape(side, side, *kernel.shape[2:])


def _fit_positions(
    found: np.ndarray,
    wanted: tuple[int, ...],
    image: ImageSpec,
    method: Literal["bicubic", "bilinear"],
    *,
    side: int | None,
) -> np.ndarray | str:
    """Embeddings (1, tokens, d) of a square grid on another grid; those of tokens before the patches stay."""
    if found.shape == wanted:
        return found
    if found.shape[2] != wanted[2] or side is None:
        return f"{tuple(found.shape)} in the file, the network takes {wanted}"
    rows, columns = image.height // side, image.width // side
    num_other = wanted[1] - rows * columns
    old = math.isqrt(max(0, found.shape[1] - num_other))
    if old * old + num_other != found.shape[1]:
        kind = {0: "learned_patches", 1: "learned"}.get(found.shape[1] - math.isqrt(found.shape[1]) ** 2)
        fix = f"model.params.position: {kind}" if kind else "other images"
        return f"of {found.shape[1]} tokens, which is no grid and {num_other} more; the network may want {fix}"
    grid = jnp.asarray(found[:, num_other:]).reshape(1, old, old, -1)
    name: Any = {"bicubic": "cubic", "bilinear": "linear"}[method]
    resized = np.asarray(jax.image.resize(grid, (1, rows, columns, grid.shape[-1]), name))
    return np.concatenate([found[:, :num_other], resized.reshape(1, rows * columns, -1)], axis=1)
