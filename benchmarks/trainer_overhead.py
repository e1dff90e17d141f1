"""Goal C4: our trainer's step rate over that of a bare loop of the same model, everything on in ours.

Bare: a hand-written loop over the same jitted update, fed from arrays in memory, that reads nothing back. Ours: the
engine's loop with prefetching, per-example augmentation keys, late metrics, logging and all three trackers.
Both run the same update function on the same images; order A B B A; the ratio is the median over many short pairs, as
the speed of a shared machine drifts by ten percent within a minute.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from trainers import open_trainer
from turns import ROOT, alternate, compare

from mlvlab_jax.config.load import load_config
from mlvlab_jax.config.schema import Config
from mlvlab_jax.engine.compile_cache import compile_cache_folder, enable_compile_cache
from mlvlab_jax.engine.experiment import Experiment, make_experiment
from mlvlab_jax.engine.step import make_train_step

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


def our_steps_per_second(config: Config, experiment: Experiment, waits: list[float]) -> float:
    """The engine's loop, from the end of the first step to that of the last but one; evaluation comes later.

    The share of that time that went into waiting for input is added to `waits`.
    """
    last, times = experiment.horizon.num_steps - 1, {}
    with open_trainer(config, experiment) as (trainer, attempt):

        def note_time(step: int) -> bool:
            if step in (1, last):
                jax.block_until_ready(trainer.state)
                times[step] = time.perf_counter()
            return False

        trainer.train(note_time)
        seconds = attempt.clock.read()
    waits.append(seconds["input"] / (seconds["input"] + seconds["train"]))
    return (last - 1) / (times[last] - times[1])


def measure(config: Config, *, num_repeats: int) -> dict[str, Any]:
    """Steps a second of both in each turn, their ratios, and the share of time that ours waited for input."""
    experiment = make_experiment(config)
    waits: list[float] = []
    measures = {
        "ours": lambda: our_steps_per_second(config, experiment, waits),
        "bare": lambda: bare_steps_per_second(config, experiment),
    }
    rates = alternate(measures, num_repeats=num_repeats)
    ratios = compare(rates["ours"], rates["bare"])
    return {"steps_per_second": rates, "ours_over_bare": ratios, "input_wait": statistics.median(waits)}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short turn of one model: whether it runs, no numbers")
    quick = parser.parse_args(arguments).quick
    enable_compile_cache(compile_cache_folder())
    results = {}
    for name, num_epochs in ({"digits": 0.3} if quick else CONFIGS).items():
        overrides = [f"training.num_epochs={num_epochs}", f"evaluation.every_epochs={num_epochs}"]
        config = load_config([ROOT / "configs" / f"{name}.yaml"], overrides).config
        results[name] = measure(config, num_repeats=1 if quick else REPEATS)
    summary = {name: statistics.median(result["ours_over_bare"]) for name, result in results.items()}
    print(json.dumps({"results": results, "summary": summary}))


if __name__ == "__main__":
    sys.exit(main())
