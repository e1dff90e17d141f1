"""The network as StableHLO: one file for CPU, CUDA and TPU and for any batch size, readable for half a year.

The weights are its arguments, so that they lie in a package once.
"""

import calendar
import contextlib
import datetime
import re
import struct
import tokenize
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.export
import jax.numpy as jnp
from pydantic import Field

from mlvlab_jax.config.fields import configclass
from mlvlab_jax.errors import PackageError
from mlvlab_jax.package.arrays import check_weights
from mlvlab_jax.types import ImageSpec

Weights = dict[str, jax.Array]
#: (weights by name, image uint8 (b h w c)) -> logits float32 (b k), embedding float32 (b d); normalisation included.
Forward = Callable[[Weights, jax.Array], tuple[jax.Array, jax.Array]]

PLATFORMS = ("cpu", "cuda", "tpu")
#: jax.export promises to read what an earlier release wrote for so long.
_WINDOW_MONTHS = 6
#: Calls out of StableHLO by name run whatever the process has registered under it; this one only compares shapes.
_CALL, _HARMLESS_CALL = re.compile(r"custom_call"), re.compile(r"stablehlo\.custom_call @shape_assertion\(")
#: What jax.export raises on bytes that are no export, or one of a format it does not know.
_BROKEN = (
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, MemoryError),
    *(AssertionError, struct.error, tokenize.TokenError),
)
_COMMUNICATES = re.compile(r"stablehlo\.(infeed|outfeed|send|recv)\b")

Date = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")]


@configclass
class ExportStamp:
    """export/export.json: what wrote the export, and how long it can be read."""

    format: Literal["jax.export"] = "jax.export"
    """Of model.bin."""
    platforms: tuple[str, ...]
    """Where it can run."""
    calling_convention_version: int
    """Of jax.export."""
    jax: str
    """Version of jax that wrote it."""
    jaxlib: str
    """Version of jaxlib that wrote it."""
    created: Date
    """Day it was written, UTC."""
    expires: Date
    """Last day on which jax promises to read it; after that the network is built from the configuration."""


class StaleExportError(Exception):
    """This jax does not, or no longer, read the export; the message says why."""


def export_forward(forward: Forward, shapes: Mapping[str, Any], *, image: ImageSpec) -> bytes:
    """`forward` with a symbolic batch size, for all of `PLATFORMS`; the same network gives the same bytes.

    Raises:
        PackageError: The network calls something that is not StableHLO.
    """
    (batch,) = jax.export.symbolic_shape("b")
    pixels = jax.ShapeDtypeStruct((batch, *image), jnp.uint8)
    with _without_locations():
        exported = jax.export.export(jax.jit(forward), platforms=PLATFORMS)(dict(shapes), pixels)
    _check_calls(exported, exported.mlir_module(), place="the network")
    return bytes(exported.serialize())


def make_stamp(today: datetime.date) -> ExportStamp:
    """The stamp of an export written today by this jax."""
    version = jax.export.maximum_supported_calling_convention_version
    return ExportStamp(
        platforms=PLATFORMS,
        calling_convention_version=version,
        jax=jax.__version__,
        jaxlib=metadata.version("jaxlib"),
        created=today.isoformat(),
        expires=_add_months(today, _WINDOW_MONTHS).isoformat(),
    )


def open_export(
    path: Path,
    stamp: ExportStamp,
    *,
    weights: Mapping[str, Any],
    image: ImageSpec,
    widths: tuple[int, int],
    today: datetime.date,
) -> Forward:
    """The function that `export_forward` wrote, for these weights; it gives logits and embedding of these `widths`.

    Raises:
        StaleExportError: Its window is over, it is for another platform, or this jax cannot read it.
        PackageError: It is for other weights or images, or it calls out of StableHLO.
    """
    if today.isoformat() > stamp.expires:
        raise StaleExportError(f"it is of {stamp.created}, and jax reads it until {stamp.expires}")
    exported, text = _deserialize(path)
    platform = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    if platform not in exported.platforms:
        raise StaleExportError(f"it is for {', '.join(exported.platforms)}, and this is {platform}")
    _check_calls(exported, text, place=str(path))
    arguments, named = jax.tree.unflatten(exported.in_tree, exported.in_avals)
    outputs = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    takes = len(arguments) == 2 and not named and isinstance(arguments[0], dict)
    if not takes or len(exported.out_avals) != 2 or outputs != tuple(exported.out_avals):
        raise PackageError(
            f"{path}: takes {exported.in_tree} and gives {exported.out_tree}; expected (weights, image) and (logits, "
            "embedding); package the run again"
        )
    check_weights(weights, arguments[0], place=str(path))
    found = [(str(aval.dtype), aval.shape[1:]) for aval in (arguments[1], *outputs)]
    expected = [("uint8", tuple(image)), *(("float32", (width,)) for width in widths)]
    if found != expected:
        raise PackageError(f"{path}: takes and gives {found}; expected {expected} a batch; fetch the package again")
    return exported.call


def _deserialize(path: Path) -> tuple[jax.export.Exported, str]:
    """The export, and its program as text; a parser not made for other bytes fails in as many ways as Python has."""
    try:
        exported = jax.export.deserialize(bytearray(path.read_bytes()))
        return exported, exported.mlir_module()
    except _BROKEN as error:
        raise StaleExportError(f"jax {jax.__version__} does not read it ({type(error).__name__}: {error})") from None


def _check_calls(exported: jax.export.Exported, text: str, *, place: str) -> None:
    calls, harmless = len(_CALL.findall(text)), len(_HARMLESS_CALL.findall(text))
    effects = (*exported.ordered_effects, *exported.unordered_effects, *exported.disabled_safety_checks)
    if calls != harmless or effects or _COMMUNICATES.search(text):
        raise PackageError(
            f"{place}: {calls - harmless} calls out of StableHLO, effects {effects}; expected a function of its "
            "arguments alone; a package of this network cannot be made or opened"
        )


@contextlib.contextmanager
def _without_locations() -> Iterator[None]:
    """Leaves out where in which file each operation was written: paths of this machine, other on the next."""
    settings = {"jax_hlo_source_file_canonicalization_regex": ".*", "jax_traceback_in_locations_limit": 0}
    before = {name: getattr(jax.config, name) for name in settings}
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def _add_months(day: datetime.date, months: int) -> datetime.date:
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return datetime.date(year, month + 1, min(day.day, calendar.monthrange(year, month + 1)[1]))
