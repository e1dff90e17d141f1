"""Goal C4: our trainer's step rate over that of a bare loop of the same model, everything on in ours.

Bare: a hand-written loop over the same jitted update, fed from arrays in memory, that reads nothing back. Ours: the
engine's loop with prefetching, per-example augmentation keys, late metrics, logging and all three trackers.
Both run the same update function on the same images; order A B B A; the ratio is the median over many short pairs, as
the speed of a shared machine drifts by ten percent within a minute.
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from mlvlab_jax.config.load import load_config
from mlvlab_jax.config.schema import Config
from mlvlab_jax.data.quarantine import Quarantine
from mlvlab_jax.engine.attempt import AttemptLog
from mlvlab_jax.engine.checkpoint import CheckpointStore
from mlvlab_jax.engine.compile_cache import compile_cache_folder, enable_compile_cache
from mlvlab_jax.engine.experiment import Experiment, make_experiment
from mlvlab_jax.engine.loop import Trainer
from mlvlab_jax.engine.step import make_train_step
from mlvlab_jax.tracking.multi import make_tracker

REPEATS = 11
CONFIGS = {"digits": 8, "digits_vit_tiny": 8}


def bare_steps_per_second(config: Config, experiment: Experiment) -> float:
    """A loop as one would write it by hand: index arrays, call the step, go on."""
    step = jax.jit(
        make_train_step(experiment.model, experiment.optimizer, config.training, config.pipeline), donate_argnums=0
    )
    source, size = experiment.data.train.source, config.training.batch_size
    images, labels, _ = source.fetch(np.arange(len(source)))
    rng = np.random.default_rng(0)
    state, started = experiment.state, 0.0
    state = jax.tree.map(lambda x: x.copy(), state)
    for k in range(experiment.horizon.num_steps):
        if k == 1:
            jax.block_until_ready(state)
            started = time.perf_counter()
        ids = rng.integers(0, len(source), size)
        batch = {
            "image": images[ids],
            "label": labels[ids],
            "example_id": ids.astype(np.int32),
            "epoch": np.zeros(size, np.int32),
            "mask": np.ones(size, np.float32),
        }
        state, _ = step(state, batch)
    jax.block_until_ready(state)
    return (experiment.horizon.num_steps - 1) / (time.perf_counter() - started)


def our_steps_per_second(config: Config, experiment: Experiment) -> float:
    """The engine's loop, from the end of the first step to that of the last but one; evaluation comes later."""
    last, times = experiment.horizon.num_steps - 1, {}
    with tempfile.TemporaryDirectory() as folder:
        tracker = make_tracker(config.tracking.trackers, workdir=Path(folder))
        store = CheckpointStore(Path(folder) / "checkpoints", config.checkpoint, mode="min")
        with store, AttemptLog(Path(folder)) as attempt:
            attempt.begin(config, in_memory=True, first_step=0, note=print)
            quarantine = Quarantine(None, sizes={}, max_bad_fraction=0.0)
            trainer = Trainer(config, experiment, store, tracker, attempt, quarantine, {})
            trainer.state = jax.tree.map(lambda x: x.copy(), experiment.state)

            def note_time(step: int) -> bool:
                if step in (1, last):
                    jax.block_until_ready(trainer.state)
                    times[step] = time.perf_counter()
                return False

            trainer.train(note_time)
        tracker.finish()
    return (last - 1) / (times[last] - times[1])


def main() -> None:
    enable_compile_cache(compile_cache_folder())
    results = {}
    for name, num_epochs in CONFIGS.items():
        overrides = [f"training.num_epochs={num_epochs}", f"evaluation.every_epochs={num_epochs}"]
        config = load_config([Path("configs") / f"{name}.yaml"], overrides).config
        experiment = make_experiment(config)
        rates: dict[str, list[float]] = {"ours": [], "bare": []}
        measure = {"ours": our_steps_per_second, "bare": bare_steps_per_second}
        for repeat in range(REPEATS):
            for which in ("ours", "bare") if repeat % 2 == 0 else ("bare", "ours"):
                rates[which].append(measure[which](config, experiment))
        ratios = [ours / bare for ours, bare in zip(rates["ours"], rates["bare"], strict=True)]
        results[name] = {"steps_per_second": rates, "ours_over_bare": [round(ratio, 4) for ratio in ratios]}
    summary = {name: statistics.median(result["ours_over_bare"]) for name, result in results.items()}
    print(json.dumps({"results": results, "summary": summary}))


if __name__ == "__main__":
    sys.exit(main())
