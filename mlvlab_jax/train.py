"""`python -m mlvlab_jax.train --config FILE`: train a model, or go on training it."""

import argparse
import datetime
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlvlab_jax.cli import add_config_arguments, run_configured
from mlvlab_jax.errors import PREEMPTED_EXIT_CODE, MlvlabError

if TYPE_CHECKING:
    from mlvlab_jax.config.load import LoadedConfig
    from mlvlab_jax.engine.loop import RunResult
    from mlvlab_jax.engine.state import TrainState


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
    config, name = loaded.config, loaded.name
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    workdir = parsed.workdir or Path("experiments") / "runs" / f"{name}-{now}"
    from mlvlab_jax.engine.folder import open_run_folder
    from mlvlab_jax.report.page import write_report

    with open_run_folder(workdir, config):
        summary_path = workdir / "summary.json"
        summary = json.loads(summary_path.read_text()) if summary_path.exists() else {"ended": "interrupted"}
        if summary["ended"] == "interrupted":
            summary = _run(config, workdir)
        if summary["ended"] != "interrupted":
            write_report(workdir)
    _print_summary(summary, workdir, name)
    return PREEMPTED_EXIT_CODE if summary["ended"] == "interrupted" else 0


def _run(config: Any, workdir: Path) -> dict[str, Any]:
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
    result = run(config, workdir=workdir, tracker=tracker, stop_requested=lambda step: bool(asked))
    split = next((name for name in ("test", "validation") if name in result.experiment.data.splits), None)
    if result.best is None or split is None:
        return result.summary
    return _analyse(config, workdir, result, best=result.best, split=split)


def _analyse(config: Any, workdir: Path, result: "RunResult", *, best: "TrainState", split: str) -> dict[str, Any]:
    """Writes the evaluation of the best state on a split; returns the summary with the time it took.

    A run that is trained stays so whatever happens here.
    """
    from mlvlab_jax.evaluation.evaluation import evaluate_variables, evaluation_folder, write_evaluation
    from mlvlab_jax.files import write_json

    summary = result.summary
    start, step = time.perf_counter(), summary["best"]["step"]
    try:
        evaluation = evaluate_variables(
            best.evaluated,
            config=config,
            experiment=result.experiment,
            split=split,
            step=step,
            checkpoint="best",
        )
        write_evaluation(evaluation_folder(workdir, evaluation), evaluation)
    except MlvlabError as error:
        print(f"warning: no evaluation was written: {error}", file=sys.stderr)
        return summary
    spent = round(time.perf_counter() - start, 3)
    seconds = {**summary["seconds"], "analyse": spent, "total": round(summary["seconds"]["total"] + spent, 3)}
    summary = {**summary, "seconds": seconds}
    write_json(workdir / "summary.json", summary)
    return summary


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
    out.print(f"run folder: {workdir}", soft_wrap=True)
    out.print(f"report:     {workdir / 'report.html'}", soft_wrap=True)
    python = os.path.relpath(sys.executable) if Path(sys.executable).is_relative_to(Path.cwd()) else sys.executable
    out.print(f"curves:     {python} -m tensorboard.main --logdir {workdir}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
