"""Goal C13: seconds to 93.0 % on Fashion-MNIST's test images, from one command, beside the same recipe in PyTorch.

The recipe is configs/fashion_mnist_cnn.yaml, whose rate falls to zero with its last epoch, so that there is no sooner
end. Each side runs as a process of its own, imports and compilation included (no compile cache). Ours also validates,
saves, analyses and writes its report in that time. PyTorch is as it comes, eager and compiled; "tuned" is its compiled
mode with the settings of malloc that ours has (mlvlab_jax.malloc).

Set TFDS_DATA_DIR to where TFDS prepared fashion_mnist. The peer needs an interpreter as step_time.py does.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from drift import read_arrays
from torch_python import find_torch_python
from turns import ROOT

from mlvlab_jax.config.load import load_config
from mlvlab_jax.config.schema import Config
from mlvlab_jax.engine.experiment import make_experiment
from mlvlab_jax.malloc import with_tunables

TARGET = 0.93
PEERS = ("torch_eager", "torch_compile", "torch_compile_tuned")
CONFIG = "configs/fashion_mnist_cnn.yaml"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What torch_recipe.py is told of a configuration."""

    seed: int
    num_steps: int
    batch_size: int
    widths: tuple[int, ...]
    convs_per_stage: int
    patch_size: int
    mean: float
    std: float
    crop_padding: int
    learning_rate: float
    warmup_share: float
    weight_decay: float
    label_smoothing: float
    ema_decay: float

    @classmethod
    def of(cls, config: Config, *, num_steps: int) -> "Recipe":
        """The recipe of a configuration of that file's kind."""
        model, training, pipeline = config.model.params, config.training, config.pipeline
        return cls(
            seed=config.seed,
            num_steps=num_steps,
            batch_size=training.batch_size,
            widths=model.widths,
            convs_per_stage=model.convs_per_stage,
            patch_size=model.patch_size,
            mean=pipeline.mean[0],
            std=pipeline.std[0],
            crop_padding=pipeline.augment.crop_padding,
            learning_rate=training.learning_rate,
            warmup_share=config.schedule.params.warmup_epochs / training.num_epochs,
            weight_decay=config.optimizer.params.weight_decay,
            label_smoothing=training.label_smoothing,
            ema_decay=training.ema_decay,
        )


def write_peer_input(folder: Path, overrides: list[str]) -> None:
    """arrays.npz, of the images that ours trains on, and recipe.json."""
    config = load_config([ROOT / CONFIG], overrides).config
    experiment = make_experiment(config)
    train = experiment.data.train
    arrays = read_arrays("tfds", **dataclasses.asdict(config.data.params))
    images, labels = train.source.fetch(train.ids)[:2]
    peer = {"x_train": images[..., 0], "y_train": labels, "x_test": arrays["x_test"][..., 0]}
    np.savez(folder / "arrays.npz", **peer, y_test=arrays["y_test"])
    recipe = Recipe.of(config, num_steps=experiment.horizon.num_steps)
    (folder / "recipe.json").write_text(json.dumps(dataclasses.asdict(recipe)))


def run_ours(folder: Path, overrides: list[str]) -> dict[str, Any]:
    """Seconds of the command and the test accuracy."""
    run = folder / "run"
    command = [sys.executable, "-m", "mlvlab_jax.train", "--config", CONFIG, "--workdir", str(run), *overrides]
    timed = time_command(command, {**os.environ, "XDG_CACHE_HOME": str(folder / "ours")})
    del timed["printed"]
    summary = json.loads((run / "summary.json").read_text())
    return timed | {"accuracy": summary["best"]["test/accuracy"], "seconds_by_phase": summary["seconds"]}


def run_torch(python: str, folder: Path, *flags: str, tuned: bool = False) -> dict[str, Any]:
    """The same of the peer, which is given what `write_peer_input` wrote."""
    command = [python, "benchmarks/torch_recipe.py", str(folder / "arrays.npz"), str(folder / "recipe.json"), *flags]
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(folder / f"inductor-{tuned}")}
    timed = time_command(command, with_tunables(environment) or environment if tuned else environment)
    return timed | json.loads(timed.pop("printed").splitlines()[-1])


def time_command(command: list[str], environment: Mapping[str, str]) -> dict[str, Any]:
    """Seconds of a whole process, which must succeed, and what it printed."""
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return {"seconds": time.perf_counter() - started, "printed": done.stdout}


def measure(folder: Path, python: str, data_dir: Path) -> dict[str, Any]:
    """A run of each side."""
    overrides = [f"data.params.data_dir={data_dir}"]
    write_peer_input(folder, overrides)
    return {
        "ours": run_ours(folder, overrides),
        "torch_eager": run_torch(python, folder),
        "torch_compile": run_torch(python, folder, "--compile"),
        "torch_compile_tuned": run_torch(python, folder, "--compile", tuned=True),
    }


def sum_up(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Seconds and accuracy of each side, and where all have reached the target the ratios of seconds."""
    summary: dict[str, Any] = {}
    for side, found in results.items():
        summary |= {f"{side}_seconds": round(found["seconds"], 1), f"{side}_accuracy": found["accuracy"]}
    if all(found["accuracy"] >= TARGET for found in results.values()):
        ours = results["ours"]["seconds"]
        for side in PEERS:
            summary[f"C13_over_{side}"] = round(ours / results[side]["seconds"], 3)
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch-python", help="interpreter with PyTorch and timm; default TORCH_PYTHON")
    parsed = parser.parse_args()
    python, told = find_torch_python(parsed.torch_python, make=False)
    data_dir = Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser().resolve()
    if python is None or not (data_dir / "fashion_mnist").exists():
        reason = told if python is None else "no fashion_mnist in TFDS_DATA_DIR"
        print(json.dumps({"summary": {"skipped": reason}}))
        return
    with tempfile.TemporaryDirectory() as name:
        results = measure(Path(name), python, data_dir)
    print(json.dumps({"peer": told, "target": TARGET, "results": results, "summary": sum_up(results)}))


if __name__ == "__main__":
    main()
