"""The monitoring folder: the reference, the judged windows with their worst images, the labels that came later."""

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlvlab_jax.files import exclusive_writer, write_atomic, write_json
from mlvlab_jax.monitoring.histograms import count_values, make_edges
from mlvlab_jax.monitoring.lines import LinesFile
from mlvlab_jax.monitoring.windows import JudgedWindow
from mlvlab_jax.package.reference import Reference
from mlvlab_jax.pages import make_thumbnail

_SCHEMA = 1
#: What is read again after a restart.
_WINDOW_KEYS = ("window", "model", "version", "rejected")
_LABEL_KEYS = ("label", "prediction", "version")
#: Labels kept in the file, as many as the live accuracy is of.
MAX_LABELS = 10_000


class WatchedModel(NamedTuple):
    """The version of a model whose answers are watched. package_sha256: of its manifest."""

    model: str
    version: str
    package_sha256: str
    class_names: tuple[str, ...]
    reference: Reference


class MonitorFolder:
    """Writes the folder, of which it is the one writer until it is closed.

    Args:
        path: Of the folder, which is made on first use.
        keep_windows: Windows kept, with their images.

    Raises:
        RunFolderError: Another process writes it.
        DataError: A file of it was written by something else.
    """

    def __init__(self, path: Path, *, keep_windows: int) -> None:
        self._path = path
        self._keep_windows = keep_windows
        with contextlib.ExitStack() as opened:
            opened.enter_context(exclusive_writer(path, option="monitoring.folder"))
            self._windows = LinesFile(path / "windows.jsonl", keep=keep_windows, keys=_WINDOW_KEYS)
            self._labels = LinesFile(path / "labels.jsonl", keep=MAX_LABELS, keys=_LABEL_KEYS)
            self._lock = opened.pop_all()
        self._edges: dict[str, np.ndarray] = {}
        self._number = 1

    def follow(self, watched: WatchedModel) -> tuple[list[bool], list[dict[str, Any]]]:
        """Writes what the windows from now on are compared with.

        Returns:
            Of the last windows, those of this version: whether they differed; and the records of the labels.
        """
        reference = watched.reference
        num_classes = len(watched.class_names)
        self._edges = {
            name: make_edges(values, highest=1.0 if name == "confidence" else np.inf)
            for name, values in reference.values.items()
        }
        features = {
            name: {"edges": edges.tolist(), "counts": count_values(reference.values[name], edges)}
            for name, edges in self._edges.items()
        }
        tree = {
            "schema": _SCHEMA,
            "model": watched.model,
            "version": watched.version,
            "package_sha256": watched.package_sha256,
            "class_names": list(watched.class_names),
            "features": features,
            "prediction": np.bincount(reference.prediction, minlength=num_classes).tolist(),
            "num": len(reference.prediction),
        }
        write_json(self._path / "reference.json", tree)
        records = self._windows.read()
        self._number = records[-1]["window"] + 1 if records else 1
        self._remove_images()
        return _last_verdicts(records, watched), self._labels.read()

    def write_window(self, judged: JudgedWindow, watched: WatchedModel) -> None:
        """Adds a window; its worst images too if it differs from the reference."""
        window, verdict = judged.window, judged.verdict
        images = self._write_images(judged) if verdict.rejected else []
        record = {
            "window": self._number,
            "start": format_time(judged.start_s),
            "end": format_time(judged.end_s),
            "num": len(window.prediction),
            "model": watched.model,
            "version": watched.version,
            "rejected": verdict.rejected,
            "alarm": verdict.alarm,
            "tests": [result._asdict() for result in verdict.results],
            "features": {name: count_values(window.values[name], edges) for name, edges in self._edges.items()},
            "prediction": np.bincount(window.prediction, minlength=len(watched.class_names)).tolist(),
            "images": images,
        }
        self._windows.append([record])
        self._number += 1
        self._remove_images()

    def write_labels(self, records: Sequence[Mapping[str, Any]], summary: Mapping[str, Any] | None) -> None:
        """Adds labels, and writes the live accuracy that they give; None where there is none."""
        if records:
            self._labels.append(records)
        if summary is None:
            (self._path / "live.json").unlink(missing_ok=True)
        else:
            write_json(self._path / "live.json", summary)

    def close(self) -> None:
        """Lets another process write the folder."""
        self._lock.close()

    def _write_images(self, judged: JudgedWindow) -> list[dict[str, Any]]:
        folder = self._path / "images" / f"window-{self._number:06d}"
        half_written = folder.with_name(f".{folder.name}.tmp")
        for left_behind in (folder, half_written):
            shutil.rmtree(left_behind, ignore_errors=True)
        records = []
        for place, worst in enumerate(judged.worst):
            name = f"{place:02d}.png"
            write_atomic(half_written / name, make_thumbnail(worst.image))
            told = {"prediction": worst.prediction, "confidence": worst.confidence, "distance": worst.distance}
            file = (folder / name).relative_to(self._path).as_posix()
            records.append({"file": file, "request_id": worst.request_id, "item": worst.item, **told})
        if records:
            half_written.rename(folder)
        return records

    def _remove_images(self) -> None:
        """Removes images of windows that are not kept, and of those that a crash kept from being told."""
        kept = range(self._number - self._keep_windows, self._number)
        for folder in (self._path / "images").glob("*window-*"):
            number = folder.name.removeprefix("window-")
            if not number.isdecimal() or int(number) not in kept:
                shutil.rmtree(folder, ignore_errors=True)


def format_time(seconds: float) -> str:
    """ISO 8601 in UTC, of seconds since 1970."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _last_verdicts(records: Sequence[Mapping[str, Any]], watched: WatchedModel) -> list[bool]:
    last: list[bool] = []
    for record in reversed(records):
        if (record["model"], record["version"]) != (watched.model, watched.version):
            break
        last.append(bool(record["rejected"]))
    return last[::-1]
