"""Makes the package of a run: from its best checkpoint, its data and what was measured."""

import dataclasses
import datetime
import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mlvlab_jax.config.fields import dump_params, params_from
from mlvlab_jax.config.load import compute_hash, to_tree
from mlvlab_jax.config.schema import Config, MeshConfig
from mlvlab_jax.data.open import Data
from mlvlab_jax.data.order import Split, permute
from mlvlab_jax.data.profile import DataProfile
from mlvlab_jax.data.records import read_sizes
from mlvlab_jax.engine.checkpoint import CheckpointStore, Which
from mlvlab_jax.engine.experiment import Experiment, make_experiment
from mlvlab_jax.engine.folder import read_config
from mlvlab_jax.engine.state import TrainState
from mlvlab_jax.errors import ConfigError, DataError, NonFiniteError
from mlvlab_jax.evaluation.evaluation import evaluate_variables, evaluation_folder, write_evaluation
from mlvlab_jax.files import sha256_file, write_atomic
from mlvlab_jax.models.nets.lora import merge_adapters
from mlvlab_jax.package.arrays import read_arrays, write_arrays
from mlvlab_jax.package.card import write_card
from mlvlab_jax.package.documents import Labels, Preprocess, render
from mlvlab_jax.package.evidence import Evidence, read_evidence
from mlvlab_jax.package.export import Forward, export_forward, make_stamp
from mlvlab_jax.package.load import calibrate, load_package
from mlvlab_jax.package.manifest import FileRecord, Manifest, is_name, render_manifest
from mlvlab_jax.package.members import MANIFEST, MEMBERS
from mlvlab_jax.package.network import make_forward, name_weights
from mlvlab_jax.package.reference import (
    MAX_EXAMPLES,
    Reference,
    list_values,
    make_reference,
    measure_values,
    write_reference,
)

_log = logging.getLogger(__name__)

#: Images whose outputs are kept, and images looked at for them and for the reference profile.
_NUM_GOLDEN, _MAX_SEARCHED, _MAX_PROFILED, _CHUNK = 16, 256, 10_000, 256
#: Keeps these draws apart from the orders of the epochs, which use small numbers.
_DRAW_STREAM = 2**63 + 1

#: image uint8 (b h w c), b <= _NUM_GOLDEN -> logits float32 (b k), embedding float32 (b d).
Predict = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Run:
    """A run as it is packed."""

    config: Config
    data: Data
    state: TrainState
    step: int
    saved: datetime.datetime
    record: dict[str, Any]
    evidence: Evidence


def write_package(
    workdir: Path, *, checkpoint: Which = "best", out: Path | None = None, name: str | None = None, today: datetime.date
) -> Path:
    """Packs a checkpoint of the run in `workdir`, and opens the package once to see that it gives its own outputs.

    The same run gives the same bytes, on the same day and by the same versions.

    Args:
        workdir: Run folder; what `evaluation/` in it says of this checkpoint goes with the model, and is written first
            where it says nothing.
        checkpoint: "best", "last" or a step.
        out: Where to, a folder that does not exist; None: `workdir`/package.
        name: What to call the model; None: as the run folder.
        today: Day the export's window begins, UTC.

    Raises:
        ConfigError: No run there, an unusable name, or something else in the place of the package.
        CheckpointError: No such checkpoint.
        DataError: The run's data is not there, or has no readable image.
        NonFiniteError: Some logits or embeddings are not finite.
        PackageError: The network cannot be exported, or the export gives other outputs than the network.
    """
    out = workdir / "package" if out is None else out
    name = workdir.resolve().name if name is None else name
    if not is_name(name):
        raise ConfigError(
            f"--name {name!r}: expected letters, digits, '.', '_' and '-', at most 100; give another name"
        )
    if out.exists():
        raise ConfigError(f"{out}: exists already; expected a new folder; remove it, or give another --out")
    run = open_run(workdir, checkpoint)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        _write_files(temporary, run, name=name, today=today)
        load_package(temporary, today=today)
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def open_run(workdir: Path, checkpoint: Which) -> Run:
    """A checkpoint of a run and what it was made with, on the devices of this machine, whatever it was trained on."""
    config = read_config(workdir)
    shape = config.mesh
    fits = shape.data * shape.fsdp * shape.tensor == jax.device_count() or shape.data == -1
    here = config if fits else dataclasses.replace(config, mesh=MeshConfig())
    mode = config.training.early_stopping.mode
    with CheckpointStore(workdir / "checkpoints", config.checkpoint, mode=mode, read_only=True) as store:
        step = store.resolve(checkpoint)
        saved = store.saved_at(step)
        experiment = make_experiment(here)
        state, _ = store.restore(step, experiment.state, experiment.layout)
    record = json.loads((workdir / "manifest.json").read_text())
    evidence = read_evidence(workdir, step=step, class_names=experiment.data.class_names)
    if evidence.split is None:
        _evaluate(workdir, config, experiment, state, step=step, checkpoint=str(checkpoint))
        evidence = read_evidence(workdir, step=step, class_names=experiment.data.class_names)
    return Run(config, experiment.data, state, step, saved, record, evidence)


def _evaluate(
    workdir: Path, config: Config, experiment: Experiment, state: TrainState, *, step: int, checkpoint: str
) -> None:
    """Writes what `mlvlab evaluate` writes, of the test split or else the validation split, where there is one."""
    split = next((name for name in ("test", "validation") if name in experiment.data.splits), None)
    if split is not None:
        made = evaluate_variables(
            state.evaluated, config=config, experiment=experiment, split=split, step=step, checkpoint=checkpoint
        )
        write_evaluation(evaluation_folder(workdir, made), made)


def _write_files(folder: Path, run: Run, *, name: str, today: datetime.date) -> None:
    config, data = run.config, run.data
    weights_path = folder / "model.safetensors"
    write_arrays(weights_path, name_weights(merge_adapters(run.state.evaluated, config.training.lora)))
    forward, shapes = make_forward(config, num_classes=len(data.class_names), image=data.spec)
    write_atomic(folder / "export/model.bin", export_forward(forward, shapes, image=data.spec))
    weights = read_arrays(weights_path)
    predict = _bind(forward, weights)
    write_arrays(folder / "golden.safetensors", _make_golden(predict, data))
    temperature = run.evidence.calibration.temperature or 1.0
    reference = describe_held_out(predict, data, temperature=temperature)
    write_reference(folder / "reference.safetensors", reference)
    profile = make_profile(data.train, num_classes=len(data.class_names))
    write_atomic(folder / "profile.json", (profile.to_json() + "\n").encode())
    pipeline = config.pipeline
    documents = {
        "config.json": to_tree(config),
        "preprocess.json": dump_params(Preprocess.of(data.preprocess, mean=pipeline.mean, std=pipeline.std)),
        "labels.json": dump_params(Labels(class_names=data.class_names)),
        "calibration.json": dump_params(run.evidence.calibration),
        "export/export.json": dump_params(make_stamp(today)),
    }
    for path, tree in documents.items():
        write_atomic(folder / path, render(tree))
    for path, source in run.evidence.files.items():
        (folder / path).parent.mkdir(exist_ok=True)
        shutil.copyfile(source, folder / path)
    num_params = sum(math.prod(array.shape) for key, array in weights.items() if key.startswith("params/"))
    manifest = _make_manifest(run, name=name, num_params=num_params)
    card = write_card(manifest, config, data, run.evidence, profile, reference)
    write_atomic(folder / "README.md", card.encode())
    files = {path: _record(folder / path) for path in sorted(MEMBERS.keys() - {MANIFEST}) if (folder / path).exists()}
    write_atomic(folder / MANIFEST, render_manifest(dataclasses.replace(manifest, files=files)))


def _make_manifest(run: Run, *, name: str, num_params: int) -> Manifest:
    """All of the manifest but its list of files."""
    session = run.record["sessions"][-1]
    tree = {
        "name": name,
        "created": run.saved.isoformat(),
        "files": {},
        "data": run.record["data"],
        "data_version": run.record["data_version"],
        "metrics": run.evidence.metrics,
        "run": {
            "config_hash": compute_hash(run.config),
            "step": run.step,
            "git": session["git"],
            "seed": run.config.seed,
        },
        "model": {"name": run.config.model.name, "num_params": num_params},
        "weights": run.record.get("weights"),
    }
    return params_from(Manifest, tree)


def _record(path: Path) -> FileRecord:
    return FileRecord(sha256=sha256_file(path), bytes=path.stat().st_size)


def _bind(forward: Forward, weights: dict[str, np.ndarray]) -> Predict:
    """`forward` with these weights: computed by one program for `_NUM_GOLDEN` images, and not by the export."""
    placed, compiled = jax.device_put(weights), jax.jit(forward)

    def predict(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        padded = np.zeros((_NUM_GOLDEN, *image.shape[1:]), np.uint8)
        padded[: len(image)] = image
        logits, embedding = jax.device_get(compiled(placed, jax.device_put(padded)))
        return logits[: len(image)], embedding[: len(image)]

    return predict


def _make_golden(predict: Predict, data: Data) -> dict[str, np.ndarray]:
    """Some images as the network sees them, and its outputs."""
    split = next(data.splits[name] for name in ("test", "validation", "train") if name in data.splits)
    image = np.concatenate([image for _, image, _ in _draw(split, _MAX_SEARCHED, chunk=_NUM_GOLDEN)])[:_NUM_GOLDEN]
    if len(image) == 0:
        raise DataError(
            f"split {split.name!r}: none of {_MAX_SEARCHED} images could be read; expected some to keep outputs of; "
            "see mlvlab validate"
        )
    logits, embedding = predict(image)
    return {"image": image, "logits": logits, "embedding": embedding}


def describe_held_out(predict: Predict, data: Data, *, temperature: float) -> Reference:
    """The reference of the validation split, or else of the test split: of data the model was not trained on."""
    split = next(data.splits[name] for name in ("validation", "test", "train") if name in data.splits)
    if split.name == "train":
        _log.warning("reference.safetensors: there is no validation and no test split; it is made of training examples")
    parts = []
    for ids, image, label in _draw(split, MAX_EXAMPLES, chunk=_NUM_GOLDEN):
        logits, embedding = predict(image)
        probabilities = calibrate(logits, temperature=temperature)
        values = measure_values(image, sizes_px=read_sizes(split.source, ids), probabilities=probabilities)
        parts.append({**values, "prediction": logits.argmax(axis=1), "label": label, "embedding": embedding})
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if len(whole["label"]) == 0:
        raise DataError(f"split {split.name!r}: no image could be read; expected a reference; see mlvlab validate")
    if not np.isfinite(whole["embedding"]).all():
        raise NonFiniteError(f"split {split.name!r}: some embeddings are not finite; choose another checkpoint")
    values = {name: whole[name] for name in list_values(data.spec.channels)}
    outputs = {name: whole[name] for name in ("prediction", "label", "embedding")}
    return make_reference(split=split.name, values=values, **outputs)


def make_profile(split: Split, *, num_classes: int) -> DataProfile:
    """Profile of a split, or of 10,000 of its examples drawn once and for all, as the network sees them."""
    profile = DataProfile.empty(num_classes, split.source.spec.channels)
    for _, image, label in _draw(split, _MAX_PROFILED, chunk=_CHUNK):
        profile = profile.update(image, label)
    return profile


def _draw(split: Split, most: int, *, chunk: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Ids, images and labels of at most `most` examples, the readable ones: a draw by the split's size alone."""
    ids = split.ids[permute(len(split), seed=0, epoch=_DRAW_STREAM)[:most]]
    for start in range(0, len(ids), chunk):
        image, label, bad = split.source.fetch(ids[start : start + chunk])
        keep = np.setdiff1d(np.arange(len(image)), list(bad))
        yield ids[start : start + chunk][keep], image[keep], label[keep]
