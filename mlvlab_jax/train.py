"""`python -m mlvlab_jax.train --config FILE`: train a model, or go on training it."""

import argparse
import datetime
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlvlab_jax.cli import add_config_arguments, run_configured
from mlvlab_jax.errors import PREEMPTED_EXIT_CODE, MlvlabError

if TYPE_CHECKING:
    from mlvlab_jax.config.load import LoadedConfig
    from mlvlab_jax.engine.attempt import AttemptLog
    from mlvlab_jax.engine.loop import RunResult
    from mlvlab_jax.engine.state import TrainState
    from mlvlab_jax.engine.telemetry import PhaseClock


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="mlvlab train", description=__doc__)
    add_config_arguments(parser)
    parser.add_argument(
        "--workdir",
        type=Path,
        help="run folder; one that holds a run goes on with it (default: experiments/runs/CONFIG-TIME)",
    )
    parsed = parser.parse_args(arguments)
    return run_configured(parsed, lambda loaded: _train(parsed, loaded))


def _train(parsed: argparse.Namespace, loaded: "LoadedConfig") -> int:
    from mlvlab_jax.engine.telemetry import PhaseClock

    clock = PhaseClock()
    config, name = loaded.config, loaded.name
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    workdir = parsed.workdir or Path("experiments") / "runs" / f"{name}-{now}"
    with clock.phase("import"):
        from mlvlab_jax.engine.folder import open_run_folder
        from mlvlab_jax.report.page import write_report

    with open_run_folder(workdir, config):
        summary_path = workdir / "summary.json"
        summary = json.loads(summary_path.read_text()) if summary_path.exists() else {"ended": "interrupted"}
        if summary["ended"] == "interrupted":
            summary = _run(config, workdir, clock)
        else:
            write_report(workdir)
    _print_summary(summary, workdir, name)
    return PREEMPTED_EXIT_CODE if summary["ended"] == "interrupted" else 0


def _run(config: Any, workdir: Path, clock: "PhaseClock") -> dict[str, Any]:
    with clock.phase("import"):
        from mlvlab_jax.engine.attempt import AttemptLog
        from mlvlab_jax.engine.compile_cache import compile_cache_folder, enable_compile_cache
        from mlvlab_jax.engine.loop import run
        from mlvlab_jax.tracking.multi import make_tracker

    if config.compile_cache:
        enable_compile_cache(compile_cache_folder())
    asked: list[int] = []

    def ask(number: int, frame: Any) -> None:
        """First signal: stop after this step and save. Second: stop now."""
        if asked:
            sys.exit(128 + number)
        asked.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask)
    tracker = make_tracker(config.tracking.trackers, workdir=workdir)
    with AttemptLog(workdir, clock=clock) as attempt:
        result = run(config, workdir=workdir, tracker=tracker, stop_requested=lambda step: bool(asked), attempt=attempt)
        if result.best is None:
            return result.summary
        with clock.phase("analyse"):
            return _finish(config, workdir, result, best=result.best, attempt=attempt)


def _finish(
    config: Any, workdir: Path, result: "RunResult", *, best: "TrainState", attempt: "AttemptLog"
) -> dict[str, Any]:
    """Writes the evaluation of the best state and the report; returns the summary with the time the first took."""
    from mlvlab_jax.files import write_json
    from mlvlab_jax.report.page import write_report

    split = next((name for name in ("test", "validation") if name in result.experiment.data.splits), None)
    summary = result.summary
    if split is not None and _analyse(config, workdir, result, best=best, split=split):
        summary = {**summary, **attempt.describe()}
        write_json(workdir / "summary.json", summary)
    attempt.write()
    write_report(workdir)
    return summary


def _analyse(config: Any, workdir: Path, result: "RunResult", *, best: "TrainState", split: str) -> bool:
    """Writes the evaluation of the best state on a split, or says why not; a run that is trained stays so."""
    from mlvlab_jax.evaluation.evaluation import evaluate_variables, evaluation_folder, write_evaluation

    try:
        evaluation = evaluate_variables(
            best.evaluated,
            config=config,
            experiment=result.experiment,
            split=split,
            step=result.summary["best"]["step"],
            checkpoint="best",
        )
        write_evaluation(evaluation_folder(workdir, evaluation), evaluation)
    except MlvlabError as error:
        print(f"warning: no evaluation was written: {error}", file=sys.stderr)
        return False
    return True


def _print_summary(summary: dict[str, Any], workdir: Path, name: str) -> None:
    from rich.console import Console

    out = Console(highlight=False)
    seconds = summary["seconds"]
    if summary["ended"] == "interrupted":
        out.print(
            f"interrupted at step {summary['steps']} and saved; to go on, add --workdir {workdir}", soft_wrap=True
        )
        return
    best = summary["best"]
    for split in ("validation", "test"):
        shown = [f"{key.split('/')[1]} {value:.4f}" for key, value in best.items() if key.startswith(f"{split}/")]
        if shown:
            out.print(f"[bold]{name}[/bold]: {split} {'  '.join(shown)}  (step {best['step']} of {summary['steps']})")
    spent = "  ".join(f"{phase} {value:.1f}" for phase, value in seconds.items() if phase != "total")
    out.print(f"{summary['ended']} in {seconds['total']:.1f} s: {spent}", soft_wrap=True)
    out.print(f"{summary['verdict']}  (goodput {100 * summary['goodput']:.0f} %)", soft_wrap=True, markup=False)
    out.print(f"run folder: {workdir}", soft_wrap=True)
    out.print(f"report:     {workdir / 'report.html'}", soft_wrap=True)
    python = os.path.relpath(sys.executable) if Path(sys.executable).is_relative_to(Path.cwd()) else sys.executable
    out.print(f"curves:     {python} -m tensorboard.main --logdir {workdir}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
