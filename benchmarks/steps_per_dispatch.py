"""Goal C5: several updates a dispatch from examples held on the device, over one update a dispatch.

Both run the engine's loop with late metrics and logging on the same examples, and on CPU end in the same bits.
Order A B B A in one process; the ratio is the median over pairs. `--repeats 1 --steps 192` is a check that it runs.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import jax
from trainers import open_trainer

from mlvlab_jax.config.load import load_config
from mlvlab_jax.config.schema import Config
from mlvlab_jax.engine.compile_cache import compile_cache_folder, enable_compile_cache
from mlvlab_jax.engine.experiment import Experiment, make_experiment
from mlvlab_jax.trees import compute_digest

STEPS_PER_DISPATCH = 16
#: Training images of the digits.
NUM_TRAIN = 1259
#: Small enough that an update takes well under 5 ms on two CPU cores.
MODELS = {
    "cnn": ("model.name=cnn", "model.params.widths=[8,16]", "model.params.convs_per_stage=1"),
    "vit": (
        *("model.name=vision_transformer", "model.params.hidden_size=32", "model.params.num_heads=2"),
        *("model.params.num_layers=1", "model.params.patch_size=4"),
    ),
}


def make_config(model: str, *, steps_per_dispatch: int, num_steps: int, batch_size: int) -> Config:
    overrides = (
        *(f"training.batch_size={batch_size}", f"training.steps_per_dispatch={steps_per_dispatch}"),
        *("pipeline.validation_fraction=0.0", f"training.num_epochs={(num_steps - 0.5) * batch_size / NUM_TRAIN}"),
        *(f"evaluation.every_epochs={num_steps}", f"tracking.log_every_steps={4 * STEPS_PER_DISPATCH}"),
    )
    return load_config([Path("configs/digits.yaml")], (*MODELS[model], *overrides)).config


def run_steps(config: Config, experiment: Experiment) -> tuple[float, str]:
    """Milliseconds an update between the first dispatches and the last log, and the digest of the final state."""
    log_every = config.tracking.log_every_steps
    last, times = experiment.horizon.num_steps // log_every * log_every, {}
    with open_trainer(config, experiment) as (trainer, _):

        def note_time(step: int) -> bool:
            if step in (log_every, last):
                jax.block_until_ready(trainer.state)
                times[step] = time.perf_counter()
            return step >= last

        trainer.train(note_time)
        digest = compute_digest(trainer.state)
    return 1000 * (times[last] - times[log_every]) / (last - log_every), digest


def compare(model: str, *, num_steps: int, batch_size: int, repeats: int) -> dict[str, Any]:
    sizes = {"one": 1, "several": STEPS_PER_DISPATCH}
    configs = {
        which: make_config(model, steps_per_dispatch=count, num_steps=num_steps, batch_size=batch_size)
        for which, count in sizes.items()
    }
    experiment = make_experiment(configs["one"])
    times: dict[str, list[float]] = {which: [] for which in sizes}
    digests = set()
    for repeat in range(repeats):
        for which in ("one", "several") if repeat % 2 == 0 else ("several", "one"):
            milliseconds, digest = run_steps(configs[which], experiment)
            times[which].append(milliseconds)
            digests.add(digest)
    ratios = [one / several for one, several in zip(times["one"], times["several"], strict=True)]
    return {"ms_per_step": times, "several_over_one": ratios, "bitwise_equal": len(digests) == 1}


def _median(values: list[float]) -> float:
    return round(statistics.median(values), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7, help="pairs of runs")
    parser.add_argument("--steps", type=int, default=1600, help="updates in a run")
    asked = parser.parse_args()
    enable_compile_cache(compile_cache_folder())
    results = {
        f"{model}, batch {batch_size}": compare(
            model, num_steps=asked.steps, batch_size=batch_size, repeats=asked.repeats
        )
        for model in MODELS
        for batch_size in (8, 32)
    }
    summary = {
        "C5_several_over_one": {name: _median(result["several_over_one"]) for name, result in results.items()},
        "one_ms": {name: _median(result["ms_per_step"]["one"]) for name, result in results.items()},
        "bitwise_equal": all(result["bitwise_equal"] for result in results.values()),
    }
    print(json.dumps({"steps_per_dispatch": STEPS_PER_DISPATCH, "results": results, "summary": summary}))


if __name__ == "__main__":
    sys.exit(main())
