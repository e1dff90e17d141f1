"""What was measured of a checkpoint, as the run folder holds it: it goes with the model."""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mlvlab_jax.errors import DataError
from mlvlab_jax.package.documents import Calibration, parse

_SPLITS, _FILES = ("test", "validation"), ("evaluation.json", "predictions.parquet")


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Measured facts.

    split: the one whose evaluation goes into the package, or None where there is none. evaluation: its evaluation.json.
    files: path in the package -> file. metrics: 'test/accuracy' -> value, of all splits, None where not finite.
    """

    split: str | None
    evaluation: Mapping[str, Any]
    files: Mapping[str, Path]
    metrics: Mapping[str, float | None]
    calibration: Calibration


def read_evidence(workdir: Path, *, step: int, class_names: tuple[str, ...]) -> Evidence:
    """What `workdir` says of the checkpoint of `step`: its evaluations, or else the summary of the run.

    Raises:
        DataError: An evaluation is not what `mlvlab evaluate` writes.
    """
    folders = [workdir / "evaluation" / f"{split}{other}" for split in _SPLITS for other in ("", f"-{step}")]
    found = {folder: tree for folder in folders if (tree := _read(folder / "evaluation.json", step, class_names))}
    folder = next(iter(found), workdir)
    evaluation = found.get(folder, {})
    return Evidence(
        split=evaluation.get("split"),
        evaluation=evaluation,
        files={f"evaluation/{name}": folder / name for name in _FILES if found and (folder / name).is_file()},
        metrics=_collect_metrics(workdir, found.values(), step),
        calibration=parse(Calibration, evaluation.get("calibration") or {}, folder / "evaluation.json"),
    )


def _collect_metrics(workdir: Path, found: Iterable[Mapping[str, Any]], step: int) -> dict[str, float | None]:
    """Values of the evaluations, and of the run's own summary where it is of the same step."""
    summary = workdir / "summary.json"
    best = json.loads(summary.read_text())["best"] if summary.exists() else {"step": None}
    values = {name: value for name, value in best.items() if "/" in name and best["step"] == step}
    for tree in found:
        values |= {f"{tree['split']}/{name}": measured["value"] for name, measured in tree["metrics"].items()}
    return {
        name: value if value is not None and math.isfinite(value) else None for name, value in sorted(values.items())
    }


def _read(path: Path, step: int, class_names: tuple[str, ...]) -> dict[str, Any] | None:
    """The evaluation in a file; None where there is none, or one of another step."""
    if not path.is_file():
        return None
    try:
        tree: dict[str, Any] = json.loads(path.read_text())
        known, names = tree["step"] == step, tuple(tree["class_names"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: not an evaluation ({type(error).__name__}: {error}); run mlvlab evaluate again"
        ) from None
    if known and names != class_names:
        raise DataError(f"{path}: of classes {list(names)[:5]}; expected those of the run; run mlvlab evaluate again")
    return tree if known else None
