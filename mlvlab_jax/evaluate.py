"""`python -m mlvlab_jax.evaluate --workdir DIR`: measure a checkpoint of a run, with intervals."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlvlab_jax.cli import parse_checkpoint, run_command
from mlvlab_jax.files import write_json
from mlvlab_jax.malloc import keep_freed_memory

if TYPE_CHECKING:
    from mlvlab_jax.config.schema import Config
    from mlvlab_jax.engine.experiment import Experiment
    from mlvlab_jax.engine.state import TrainState


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    keep_freed_memory(arguments)
    parser = argparse.ArgumentParser(prog="mlvlab evaluate", description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True, help="run folder")
    parser.add_argument("--checkpoint", type=parse_checkpoint, default="best", help="best (default), last, or a step")
    parser.add_argument("--split", default="test", help="train, validation or test (default)")
    parser.add_argument(
        "--slice",
        action="append",
        metavar="COLUMN",
        help="column of the manifest to show accuracy by; repeatable (default: all with at most 20 values)",
    )
    parser.add_argument(
        "--corruptions", action="store_true", help="measure it on 15 corruptions of the split in 5 severities too"
    )
    parser.add_argument(
        "--mirror",
        action="store_true",
        help="mean of the logits of each image and its mirror image, as test-time augmentation; wrong for digits",
    )
    parser.add_argument(
        "--out", type=Path, help="folder to write (default: WORKDIR/evaluation/SPLIT, or SPLIT-mirrored)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object of metrics and nothing else")
    parsed = parser.parse_args(arguments)
    return run_command(lambda: _evaluate(parsed))


def _evaluate(parsed: argparse.Namespace) -> int:
    from mlvlab_jax.engine.folder import read_config

    config = read_config(parsed.workdir)
    from mlvlab_jax.engine.compile_cache import compile_cache_folder, enable_compile_cache
    from mlvlab_jax.engine.restored import restore_checkpoint
    from mlvlab_jax.errors import ConfigError

    if config.compile_cache:
        enable_compile_cache(compile_cache_folder())
    step, experiment, state = restore_checkpoint(parsed.workdir, config, parsed.checkpoint)
    splits = experiment.data.splits
    if parsed.split not in splits:
        raise ConfigError(f"--split {parsed.split!r}: there is no such split; there are {sorted(splits)}")
    if experiment.data.multi_label:
        if parsed.mirror or parsed.corruptions:
            raise ConfigError("--mirror and --corruptions need data of one class an example; leave them out")
        return _print_metrics(experiment, state, split=parsed.split, step=step, as_json=parsed.json)
    return _evaluate_classes(parsed, config, experiment, state, step=step)


def _evaluate_classes(
    parsed: argparse.Namespace, config: "Config", experiment: "Experiment", state: "TrainState", *, step: int
) -> int:
    """Everything there is to measure, for data of one class an example."""
    from mlvlab_jax.engine.predict import average_mirrored
    from mlvlab_jax.evaluation.evaluation import evaluate_variables, evaluation_folder, write_evaluation

    if parsed.mirror:
        experiment = dataclasses.replace(experiment, model=average_mirrored(experiment.model))
    evaluation = evaluate_variables(
        state.evaluated,
        config=config,
        experiment=experiment,
        split=parsed.split,
        step=step,
        checkpoint=str(parsed.checkpoint),
        slices=parsed.slice,
    )
    usual = evaluation_folder(parsed.workdir, evaluation)
    folder = parsed.out or (usual.with_name(f"{usual.name}-mirrored") if parsed.mirror else usual)
    write_evaluation(folder, evaluation)
    robustness = None
    if parsed.corruptions:
        from mlvlab_jax.evaluation.robustness import measure_robustness

        robustness = measure_robustness(state.evaluated, evaluation, config=config, experiment=experiment)
        write_json(folder / "corruptions.json", robustness)
    _print(evaluation.to_tree(), folder, robustness, as_json=parsed.json)
    return 0


def _print_metrics(experiment: "Experiment", state: "TrainState", *, split: str, step: int, as_json: bool) -> int:
    """The configured metrics alone, for data of several labels an example."""
    unreadable: list[object] = []
    splits = experiment.data.splits
    measured = experiment.evaluator(state.evaluated, splits[split], on_bad=unreadable.extend).scalars
    shown = {"step": step, "split": split, "num_examples": len(splits[split]) - len(unreadable), **measured}
    print(json.dumps(shown) if as_json else "\n".join(f"{name:<24}{value}" for name, value in shown.items()))
    return 0


def _print(tree: dict[str, Any], folder: Path, robustness: dict[str, Any] | None, *, as_json: bool) -> None:
    if as_json:
        shown = {name: tree[name] for name in ("step", "split", "num_examples")}
        values = {name: one["value"] for name, one in tree["metrics"].items()}
        intervals = {name: [one["low"], one["high"]] for name, one in tree["metrics"].items()}
        shifted = {} if robustness is None else {"corruptions": robustness}
        print(json.dumps({**shown, **values, "intervals": intervals, **shifted, "folder": str(folder)}))
        return
    from rich.console import Console

    from mlvlab_jax.evaluation.printout import print_evaluation, print_robustness

    console = Console(highlight=False)
    print_evaluation(tree, folder=folder, console=console)
    if robustness is not None:
        print_robustness(robustness, console=console)


if __name__ == "__main__":
    sys.exit(main())
