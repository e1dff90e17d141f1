"""`mlvlab soup RUN RUN ... --workdir DIR`: the mean of the weights of several runs, as a run of its own.

The runs are of one network, data and seed, and differ in how they were trained. What is made can be evaluated,
packaged and begun with like any run.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlvlab_jax.cli import run_command
from mlvlab_jax.malloc import keep_freed_memory

if TYPE_CHECKING:
    from mlvlab_jax.config.schema import Config
    from mlvlab_jax.engine.experiment import Experiment
    from mlvlab_jax.evaluation.soup import Ingredient, Soup


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    keep_freed_memory(arguments)
    parser = argparse.ArgumentParser(prog="mlvlab soup", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders, two or more; their best states")
    parser.add_argument("--workdir", type=Path, required=True, help="run folder to make")
    parser.add_argument(
        "--greedy", action="store_true", help="leave out runs that make the mean worse on the validation split"
    )
    parsed = parser.parse_args(arguments)
    if len(parsed.runs) < 2:
        parser.error(f"{len(parsed.runs)} run; expected two or more")
    return run_command(lambda: _cook(parsed))


def _cook(parsed: argparse.Namespace) -> int:
    from mlvlab_jax.evaluation.soup import check_alike

    config = check_alike(parsed.runs)
    from mlvlab_jax.engine.compile_cache import compile_cache_folder, enable_compile_cache
    from mlvlab_jax.engine.experiment import make_experiment
    from mlvlab_jax.engine.folder import open_run_folder
    from mlvlab_jax.errors import ConfigError
    from mlvlab_jax.evaluation.soup import cook, measure_on_validation, read_ingredient

    if (parsed.workdir / "config.yaml").exists():
        raise ConfigError(f"{parsed.workdir}: holds a run; expected a new folder; give another --workdir")
    if config.compile_cache:
        enable_compile_cache(compile_cache_folder())
    with open_run_folder(parsed.workdir, config):
        experiment = make_experiment(config)
        measure = measure_on_validation(config, experiment)
        ingredients = [read_ingredient(workdir, experiment, measure) for workdir in parsed.runs]
        soup = cook(ingredients, measure, greedy=parsed.greedy, higher=config.training.early_stopping.mode == "max")
        _write(parsed.workdir, config, experiment, soup)
    _print(parsed.workdir, config, ingredients, soup)
    return 0


def _write(workdir: Path, config: "Config", experiment: "Experiment", soup: "Soup") -> None:
    """The run folder: its configuration, where the weights are from, and one checkpoint, which is measured."""
    import jax

    from mlvlab_jax.engine.checkpoint import CheckpointStore
    from mlvlab_jax.engine.folder import write_start
    from mlvlab_jax.engine.progress import Progress
    from mlvlab_jax.engine.trainer import describe_versions
    from mlvlab_jax.files import write_json

    stopping, step = config.training.early_stopping, soup.used[0].step
    variables = jax.device_put(soup.variables, experiment.layout.variables)
    ema = None if experiment.state.ema is None else jax.device_put(soup.variables, experiment.layout.ema)
    state = dataclasses.replace(experiment.state, variables=variables, ema=ema)
    used = [{"run": str(each.workdir), "step": each.step, "value": each.value} for each in soup.used]
    write_start(
        workdir,
        config,
        data_identity=dict(experiment.data.identity),
        data_version=describe_versions(experiment),
        weights={**_read_beginning(soup.used[0].workdir), "soup": used},
    )
    measured = {f"validation/{stopping.monitor}": soup.value}
    with CheckpointStore(workdir / "checkpoints", config.checkpoint, mode=stopping.mode) as store:
        progress = Progress(step=step, metrics=measured, evaluated=step)
        store.save(state, progress.to_tree(), step=step, monitored=soup.value)
        store.wait()
    best = {"step": step, **measured}
    write_json(workdir / "summary.json", {"ended": "finished", "steps": step, "best": best, "last": best})


def _read_beginning(workdir: Path) -> dict[str, Any]:
    """The weights that a run began with, as its manifest has them."""
    return json.loads((workdir / "manifest.json").read_text()).get("weights") or {}


def _print(workdir: Path, config: "Config", ingredients: "Sequence[Ingredient]", soup: "Soup") -> None:
    monitor, used = config.training.early_stopping.monitor, {each.workdir for each in soup.used}
    for each in ingredients:
        left_out = "" if each.workdir in used else "  left out"
        print(f"{each.workdir}: step {each.step}  validation {monitor} {each.value:.4f}{left_out}")
    print(f"mean of {len(used)}: validation {monitor} {soup.value:.4f}")
    print(f"run folder: {workdir}")
    print(f"measure it: mlvlab evaluate --workdir {workdir}")


if __name__ == "__main__":
    sys.exit(main())
