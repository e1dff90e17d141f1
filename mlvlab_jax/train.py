"""`python -m mlvlab_jax.train --config FILE`: train a model, or go on training it."""

import argparse
import contextlib
import datetime
import json
import os
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
    _add_process_arguments(parser)
    parsed = parser.parse_args(arguments)
    return run_configured(parsed, lambda loaded: _train(parsed, loaded))


def _add_process_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "several processes", "one run of many; found out by themselves under Slurm, Open MPI, Kubernetes and Cloud TPU"
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 runs, and a free port there")
    group.add_argument("--num-processes", type=int, metavar="N", help="processes in all; 1: this one alone")
    group.add_argument("--process-id", type=int, metavar="I", help="which of them this is, from 0")
    group.add_argument(
        "--join-timeout-s",
        type=float,
        default=300.0,
        metavar="S",
        help="how long to wait for the others (default: 300)",
    )


def _train(parsed: argparse.Namespace, loaded: "LoadedConfig") -> int:
    from mlvlab_jax.engine.telemetry import PhaseClock

    clock = PhaseClock()
    with clock.phase("import"):
        from mlvlab_jax.engine.distributed import from_first, is_first, join, parse_place
        from mlvlab_jax.engine.faults import refuse_outside_tests
        from mlvlab_jax.report.page import write_report

    refuse_outside_tests()
    config, name = loaded.config, loaded.name
    place = parse_place(parsed.coordinator, num_processes=parsed.num_processes, process_id=parsed.process_id)
    join(place, timeout_s=parsed.join_timeout_s)
    with contextlib.ExitStack() as held:
        opened = from_first(lambda: _open_folder(parsed.workdir, config, name=name, held=held))
        workdir, summary = Path(opened["workdir"]), opened["summary"]
        if summary["ended"] == "interrupted":
            summary = _run(config, workdir, clock)
        elif is_first():
            write_report(workdir)
    if is_first():
        _print_summary(summary, workdir, name)
    return PREEMPTED_EXIT_CODE if summary["ended"] == "interrupted" else 0


def _open_folder(workdir: Path | None, config: Any, *, name: str, held: contextlib.ExitStack) -> dict[str, Any]:
    """Where the run lies, and how it ended, if it has."""
    from mlvlab_jax.engine.folder import open_run_folder

    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    workdir = workdir or Path("experiments") / "runs" / f"{name}-{now}"
    held.enter_context(open_run_folder(workdir, config))
    path = workdir / "summary.json"
    summary = json.loads(path.read_text()) if path.exists() else {"ended": "interrupted"}
    return {"workdir": str(workdir), "summary": summary}


def _run(config: Any, workdir: Path, clock: "PhaseClock") -> dict[str, Any]:
    with clock.phase("import"):
        from mlvlab_jax.engine.attempt import AttemptLog
        from mlvlab_jax.engine.compile_cache import compile_cache_folder, enable_compile_cache
        from mlvlab_jax.engine.distributed import is_first
        from mlvlab_jax.engine.loop import run
        from mlvlab_jax.engine.signals import AgreedStop, StopSignals
        from mlvlab_jax.tracking.multi import make_tracker

    if config.compile_cache:
        enable_compile_cache(compile_cache_folder())
    tracker = make_tracker(config.tracking.trackers if is_first() else (), workdir=workdir)
    with StopSignals() as heard, AttemptLog(workdir, clock=clock) as attempt:
        stop = AgreedStop(lambda: heard.asked)
        result = run(config, workdir=workdir, tracker=tracker, stop_requested=stop, attempt=attempt)
        if result.best is None:
            return result.summary
        with clock.phase("analyse"):
            return _finish(config, workdir, result, best=result.best, attempt=attempt)


def _finish(
    config: Any, workdir: Path, result: "RunResult", *, best: "TrainState", attempt: "AttemptLog"
) -> dict[str, Any]:
    """Writes the evaluation of the best state and the report; returns the summary with the time the first took."""
    from mlvlab_jax.engine.distributed import is_first
    from mlvlab_jax.files import write_json
    from mlvlab_jax.report.page import write_report

    split = next((name for name in ("test", "validation") if name in result.experiment.data.splits), None)
    summary = result.summary
    if split is not None and _analyse(config, workdir, result, best=best, split=split):
        summary = {**summary, **attempt.describe()}
        if is_first():
            write_json(workdir / "summary.json", summary)
    if is_first():
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
