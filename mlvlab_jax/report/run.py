"""What a run folder says, read once."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mlvlab_jax.engine.goodput import Goodput, read_ledger, sum_up
from mlvlab_jax.errors import ConfigError, DataError
from mlvlab_jax.report.records import Series, read_records

_SCHEMA = 1


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """evaluation.json of one split. thumbnails: PNG bytes by index of the example, of those mistakes that have one."""

    content: Mapping[str, Any]
    thumbnails: Mapping[int, bytes]


@dataclasses.dataclass(frozen=True)
class Run:
    """A run, finished or not.

    summary: None before its end. config: as written, so a run of any version can be read. goodput: of all attempts.
    """

    name: str
    config_text: str
    config: Mapping[str, Any]
    manifest: Mapping[str, Any]
    summary: Mapping[str, Any] | None
    goodput: Goodput
    curves: Mapping[str, Series]
    evaluations: tuple[Evaluation, ...]

    @property
    def best_step(self) -> int | None:
        """Step of the state that is the run's result; None before the end."""
        best = self.summary["best"] if self.summary else None
        return best["step"] if best else None

    @property
    def evaluation(self) -> Evaluation | None:
        """Of the run's result on the test split, or on another where it was not evaluated on that."""
        order = {"test": 0, "validation": 1}
        of_result = [each for each in self.evaluations if each.content["step"] == self.best_step]
        return min(of_result, key=lambda each: order.get(each.content["split"], 2), default=None)


def read_run(folder: Path) -> Run:
    """Reads what a run folder holds: configuration, manifest, summary, ledger, metrics and evaluation/SPLIT/.

    Raises:
        ConfigError: There is no run.
        DataError: A file of it is not what this version writes.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"{folder}: no config.yaml, so no run; check --workdir")
    text = path.read_text("utf-8")
    evaluations = sorted((folder / "evaluation").glob("*/evaluation.json"))
    summary = folder / "summary.json"
    return Run(
        name=folder.resolve().name,
        config_text=text,
        config=yaml.safe_load(text),
        manifest=_read_json(folder / "manifest.json"),
        summary=_read_json(summary) if summary.exists() else None,
        goodput=sum_up(read_ledger(folder / "goodput.jsonl")),
        curves=read_records(folder / "metrics.jsonl"),
        evaluations=tuple(map(_read_evaluation, evaluations)),
    )


def _read_evaluation(path: Path) -> Evaluation:
    content = _read_json(path)
    if content.get("schema") != _SCHEMA:
        raise DataError(f"{path}: schema {content.get('schema')}; expected {_SCHEMA}; evaluate again with this version")
    images = {index: path.parent / "mistakes" / f"{index}.png" for index in (m["index"] for m in content["mistakes"])}
    thumbnails = {index: image.read_bytes() for index, image in images.items() if image.is_file()}
    return Evaluation(content, thumbnails)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}; expected JSON as training writes it; train again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds {type(content).__name__}; expected a JSON object; train again")
    return content
