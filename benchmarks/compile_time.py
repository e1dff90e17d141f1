"""Goal G8: one loop over all blocks against a program for each: time to compile a training step, and to run it.

A vision transformer of depth 24, narrow so that the depth and not the width decides. Both forms in one process, in the
order A B B A, without the cache of compiled programs; ratios are medians over the pairs.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import jax

from mlvlab_jax.config.load import load_config
from mlvlab_jax.config.schema import Config
from mlvlab_jax.data.stream import train_stream
from mlvlab_jax.engine.experiment import Experiment, make_experiment
from mlvlab_jax.engine.mesh import batch_sharding
from mlvlab_jax.engine.step import compile_train_step, make_train_step

FORMS = {"scanned": "true", "unrolled": "false"}


def load(form: str, depth: int) -> Config:
    overrides = [
        *("model.name=vision_transformer", "model.params.hidden_size=64", "model.params.num_heads=4"),
        *(f"model.params.num_layers={depth}", "model.params.patch_size=2", f"model.params.scan_layers={FORMS[form]}"),
        *("optimizer.name=adamw", "training.batch_size=32"),
    ]
    return load_config([Path("configs/digits_vit_tiny.yaml")], overrides).config


def compile_step(config: Config, experiment: Experiment, batch: Any) -> tuple[float, float, Any]:
    """Seconds to trace and lower, seconds to compile, and the program."""
    jax.clear_caches()
    pure = make_train_step(experiment.model, experiment.optimizer, config.training, config.pipeline)
    step = compile_train_step(pure, experiment.layout, experiment.mesh)
    started = time.perf_counter()
    lowered = step.lower(experiment.state, batch)
    traced = time.perf_counter()
    program = lowered.compile()
    return traced - started, time.perf_counter() - traced, program


def seconds_per_step(program: Any, experiment: Experiment, batch: Any, *, steps: int) -> float:
    state = jax.tree.map(lambda x: x.copy(), experiment.state)
    state, _ = program(state, batch)
    jax.block_until_ready(state)
    started = time.perf_counter()
    for _ in range(steps):
        state, _ = program(state, batch)
    jax.block_until_ready(state)
    return (time.perf_counter() - started) / steps


def make_batch(config: Config, experiment: Experiment) -> Any:
    stream = train_stream(experiment.data.train, batch_size=config.training.batch_size, num_steps=1, seed=config.seed)
    return jax.device_put(next(iter(stream)), batch_sharding(experiment.mesh))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depth", type=int, default=24, help="blocks")
    parser.add_argument("--repeats", type=int, default=6, help="pairs")
    parser.add_argument("--steps", type=int, default=20, help="steps timed in each")
    options = parser.parse_args()
    configs = {form: load(form, options.depth) for form in FORMS}
    experiments = {form: make_experiment(config) for form, config in configs.items()}
    batch = make_batch(configs["scanned"], experiments["scanned"])
    seconds: dict[str, dict[str, list[float]]] = {form: {"trace": [], "compile": [], "step": []} for form in FORMS}
    for repeat in range(options.repeats):
        for form in FORMS if repeat % 2 == 0 else reversed(FORMS):
            trace, compiled, program = compile_step(configs[form], experiments[form], batch)
            step = seconds_per_step(program, experiments[form], batch, steps=options.steps)
            for name, value in (("trace", trace), ("compile", compiled), ("step", step)):
                seconds[form][name].append(round(value, 4))
    scanned, unrolled = seconds["scanned"], seconds["unrolled"]
    ratios = {name: [round(a / b, 4) for a, b in zip(scanned[name], unrolled[name], strict=True)] for name in scanned}
    summary = {f"{name}_scanned_over_unrolled": statistics.median(values) for name, values in ratios.items()}
    print(json.dumps({"depth": options.depth, "seconds": seconds, "ratios": ratios, "summary": summary}))


if __name__ == "__main__":
    sys.exit(main())
