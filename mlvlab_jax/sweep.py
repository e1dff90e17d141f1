"""`python -m mlvlab_jax.sweep --config FILE --space FILE`: search a space of configurations, one process a trial."""

import argparse
import datetime
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlvlab_jax.cli import add_config_arguments, run_configured
from mlvlab_jax.errors import PREEMPTED_EXIT_CODE

if TYPE_CHECKING:
    from mlvlab_jax.config.load import LoadedConfig
    from mlvlab_jax.sweeps.folder import Sweep
    from mlvlab_jax.sweeps.results import SweepResult


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="mlvlab sweep", description=__doc__)
    add_config_arguments(parser)
    parser.add_argument("--space", type=Path, required=True, help="what to vary, and how: a YAML file")
    parser.add_argument(
        "--workdir",
        type=Path,
        help="sweep folder; one that holds a sweep goes on with it (default: experiments/sweeps/SPACE-TIME)",
    )
    parser.add_argument("--trials", type=_positive, help="trials in all (default: as the space says)")
    parser.add_argument(
        "--jobs", type=_positive, default=1, help="trials at a time, sharing a GPU's memory (default: 1)"
    )
    parser.add_argument("--json", action="store_true", help="print the content of sweep.json and nothing else")
    parsed = parser.parse_args(arguments)
    return run_configured(parsed, lambda loaded: _sweep(parsed, loaded))


def _positive(text: str) -> int:
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")


def _sweep(parsed: argparse.Namespace, loaded: "LoadedConfig") -> int:
    from mlvlab_jax.sweeps.space import load_space

    space = load_space(parsed.space)
    given = frozenset(text.partition("=")[0].strip() for text in parsed.overrides)
    base = space.fix(loaded.config, overridden=given)
    from rich.console import Console

    from mlvlab_jax.sweeps.folder import Sweep
    from mlvlab_jax.sweeps.runner import run_sweep
    from mlvlab_jax.sweeps.study import check_optuna

    check_optuna()
    time = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    workdir = parsed.workdir or Path("experiments") / "sweeps" / f"{parsed.space.stem}-{time}"
    sweep = Sweep(workdir, base, space.space)
    asked = _count_signals()
    progress = Console(stderr=True, highlight=False)
    result = run_sweep(
        sweep,
        num_trials=space.space.num_trials(parsed.trials),
        num_jobs=parsed.jobs,
        stop_requested=lambda: bool(asked),
        note=lambda text: progress.print(text, markup=False, soft_wrap=True),
    )
    if parsed.json:
        print((workdir / "sweep.json").read_text(), end="")
    else:
        _print_result(sweep, result)
    return PREEMPTED_EXIT_CODE if result.ended == "interrupted" else 0


def _count_signals() -> list[int]:
    """First signal: let running trials save, and stop. Second: as if nobody had listened."""
    asked: list[int] = []

    def ask(number: int, frame: Any) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask)
    return asked


def _print_result(sweep: "Sweep", result: "SweepResult") -> None:
    from rich.console import Console

    from mlvlab_jax.sweeps.results import make_table

    out = Console(highlight=False)
    out.print(make_table(result))
    if result.ended == "interrupted":
        out.print(f"interrupted and saved; to go on, add --workdir {sweep.folder}", soft_wrap=True)
    if result.best is not None:
        out.print(f"best trial: {sweep.folder / result.best.workdir}", soft_wrap=True)
        out.print(f"to use it:  mlvlab train --config {sweep.folder / 'best.yaml'}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
