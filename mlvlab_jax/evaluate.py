"""`python -m mlvlab_jax.evaluate --workdir DIR`: measure a checkpoint of a run."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from mlvlab_jax.cli import parse_checkpoint, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="mlvlab evaluate", description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True, help="run folder")
    parser.add_argument("--checkpoint", type=parse_checkpoint, default="best", help="best (default), last, or a step")
    parser.add_argument("--split", default="test", help="train, validation or test (default)")
    parser.add_argument("--json", action="store_true", help="print one JSON object of metrics and nothing else")
    parsed = parser.parse_args(arguments)
    return run_command(lambda: _evaluate(parsed))


def _evaluate(parsed: argparse.Namespace) -> int:
    from mlvlab_jax.engine.folder import read_config

    config = read_config(parsed.workdir)
    from mlvlab_jax.data.quarantine import Quarantine
    from mlvlab_jax.engine.checkpoint import CheckpointStore
    from mlvlab_jax.engine.compile_cache import compile_cache_folder, enable_compile_cache
    from mlvlab_jax.engine.experiment import make_experiment
    from mlvlab_jax.errors import ConfigError

    if config.compile_cache:
        enable_compile_cache(compile_cache_folder())
    mode = config.training.early_stopping.mode
    with CheckpointStore(parsed.workdir / "checkpoints", config.checkpoint, mode=mode) as store:
        step = store.resolve(parsed.checkpoint)
        experiment = make_experiment(config)
        splits = experiment.data.splits
        if parsed.split not in splits:
            raise ConfigError(f"--split {parsed.split!r}: there is no such split; there are {sorted(splits)}")
        state, _ = store.restore(step, experiment.state, experiment.layout)
    sizes = {name: len(split) for name, split in splits.items()}
    quarantine = Quarantine(None, sizes=sizes, max_bad_fraction=config.pipeline.max_bad_fraction)
    measured = experiment.evaluator(state.evaluated, splits[parsed.split], on_bad=quarantine.add).scalars
    if parsed.json:
        print(json.dumps({"step": step, "split": parsed.split, **measured}))
    else:
        print(f"{parsed.workdir}, step {step}, {parsed.split}: {len(splits[parsed.split])} examples")
        for name, value in measured.items():
            print(f"  {name:<12}{value:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
