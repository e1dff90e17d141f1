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
from mlvlab_jax.malloc import keep_freed_memory

if TYPE_CHECKING:
    from mlvlab_jax.config.load import LoadedConfig
    from mlvlab_jax.engine.attempt import AttemptLog
    from mlvlab_jax.engine.experiment import Experiment
    from mlvlab_jax.engine.loop import RunResult
    from mlvlab_jax.engine.signals import AgreedStop, StopSignals
    from mlvlab_jax.engine.state import TrainState
    from mlvlab_jax.engine.telemetry import PhaseClock


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    keep_freed_memory(arguments)
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
        from mlvlab_jax.engine.preemption import PreemptionNotices
        from mlvlab_jax.engine.signals import StopSignals

    refuse_outside_tests()
    config, name = loaded.config, loaded.name
    place = parse_place(parsed.coordinator, num_processes=parsed.num_processes, process_id=parsed.process_id)
    join(place, timeout_s=parsed.join_timeout_s)
    with contextlib.ExitStack() as held:
        heard = held.enter_context(StopSignals())
        held.enter_context(PreemptionNotices(heard.ask))
        opened = from_first(lambda: _open_folder(parsed.workdir, config, name=name, held=held))
        workdir, summary = Path(opened["workdir"]), opened["summary"]
        if summary["ended"] == "interrupted":
            summary, complete = _run(config, workdir, clock, heard)
        else:
            complete = _make_up(config, workdir, summary, heard)
        if is_first():
            _print_summary(summary, workdir, name, complete=complete)
    if complete:
        return 0
    _leave_compiling()
    return PREEMPTED_EXIT_CODE


def _open_folder(workdir: Path | None, config: Any, *, name: str, held: contextlib.ExitStack) -> dict[str, Any]:
    """Where the run lies, and how it ended, if it has."""
    from mlvlab_jax.engine.folder import open_run_folder

    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    workdir = workdir or Path("experiments") / "runs" / f"{name}-{now}"
    held.enter_context(open_run_folder(workdir, config))
    path = workdir / "summary.json"
    summary = json.loads(path.read_text()) if path.exists() else {"ended": "interrupted"}
    return {"workdir": str(workdir), "summary": summary}


def _run(config: Any, workdir: Path, clock: "PhaseClock", heard: "StopSignals") -> tuple[dict[str, Any], bool]:
    """Trains; gives the summary, and whether nothing is left to do."""
    with clock.phase("import"):
        from mlvlab_jax.engine.attempt import AttemptLog
        from mlvlab_jax.engine.compile_cache import compile_cache_folder, enable_compile_cache
        from mlvlab_jax.engine.distributed import is_first
        from mlvlab_jax.engine.loop import run
        from mlvlab_jax.engine.peers import ending_without_peers
        from mlvlab_jax.engine.signals import AgreedStop
        from mlvlab_jax.tracking.multi import make_tracker

    if config.compile_cache:
        enable_compile_cache(compile_cache_folder())
    tracker = make_tracker(config.tracking.trackers if is_first() else (), workdir=workdir)
    with ending_without_peers(workdir), AttemptLog(workdir, clock=clock) as attempt:
        stop = AgreedStop(lambda: heard.asked)
        result = run(
            config,
            workdir=workdir,
            tracker=tracker,
            stop_requested=stop,
            breakable=heard.breakable,
            attempt=attempt,
        )
        if result.best is None:
            return result.summary, False
        with clock.phase("analyse"):
            return _finish(config, workdir, result, stop, best=result.best, attempt=attempt)


def _finish(
    config: Any, workdir: Path, result: "RunResult", stop: "AgreedStop", *, best: "TrainState", attempt: "AttemptLog"
) -> tuple[dict[str, Any], bool]:
    """Writes the evaluation of the best state and the report.

    Returns:
        The summary with the time the first took, and whether neither was broken off by a stop.
    """
    from mlvlab_jax.engine.distributed import is_first
    from mlvlab_jax.engine.signals import StopRequested
    from mlvlab_jax.files import write_json
    from mlvlab_jax.report.page import write_report

    summary, step = result.summary, result.summary["best"]["step"]
    try:
        written = _analyse(config, workdir, result.experiment, best, step=step, stop=stop)
    except StopRequested:
        return summary, False
    if written:
        summary = {**summary, **attempt.describe()}
        if is_first():
            write_json(workdir / "summary.json", summary)
    if is_first():
        attempt.write()
        write_report(workdir)
    return summary, True


def _make_up(config: Any, workdir: Path, summary: dict[str, Any], heard: "StopSignals") -> bool:
    """What an earlier start, that had trained to the end, was kept from; returns whether nothing is left to do."""
    from mlvlab_jax.engine.distributed import from_first, is_first
    from mlvlab_jax.evaluation.evaluation import is_evaluated
    from mlvlab_jax.report.page import write_report

    step = summary["best"]["step"]
    if not from_first(lambda: is_evaluated(workdir, step)):
        from mlvlab_jax.engine.compile_cache import compile_cache_folder, enable_compile_cache
        from mlvlab_jax.engine.restored import restore_checkpoint
        from mlvlab_jax.engine.signals import AgreedStop, StopRequested

        if config.compile_cache:
            enable_compile_cache(compile_cache_folder())
        _, experiment, best = restore_checkpoint(workdir, config, step)
        try:
            _analyse(config, workdir, experiment, best, step=step, stop=AgreedStop(lambda: heard.asked))
        except StopRequested:
            return False
    if is_first():
        write_report(workdir)
    return True


def _analyse(
    config: Any, workdir: Path, experiment: "Experiment", best: "TrainState", *, step: int, stop: "AgreedStop"
) -> bool:
    """Writes the evaluation of the best state, where there is data for it.

    What speaks against it is said, and whether it was written is returned; a run that is trained stays so.

    Raises:
        StopRequested: The run was asked to stop.
    """
    from mlvlab_jax.engine.signals import break_off_if
    from mlvlab_jax.evaluation.evaluation import evaluate_variables, evaluation_folder, write_evaluation

    split = next((name for name in ("test", "validation") if name in experiment.data.splits), None)
    if split is None:
        return False
    try:
        evaluation = evaluate_variables(
            best.evaluated,
            config=config,
            experiment=experiment,
            split=split,
            step=step,
            checkpoint="best",
            between=lambda: break_off_if(stop(step)),
        )
        write_evaluation(evaluation_folder(workdir, evaluation), evaluation)
    except MlvlabError as error:
        print(f"warning: no evaluation was written: {error}", file=sys.stderr)
        return False
    return True


def _leave_compiling() -> None:
    """Ends the process now if it is compiling: that cannot be interrupted, and the interpreter would wait for it."""
    import jax

    from mlvlab_jax.engine.compiling import is_compiling

    if is_compiling():
        jax.distributed.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(PREEMPTED_EXIT_CODE)


def _print_summary(summary: dict[str, Any], workdir: Path, name: str, *, complete: bool) -> None:
    from rich.console import Console

    out = Console(highlight=False)
    seconds = summary["seconds"]
    if summary["ended"] == "interrupted":
        where = f"at step {summary['steps']} and saved" if summary["steps"] else "before the first step"
        out.print(f"interrupted {where}; to go on, add --workdir {workdir}", soft_wrap=True)
        return
    best = summary["best"]
    for split in ("validation", "test"):
        shown = [f"{key.split('/')[1]} {value:.4f}" for key, value in best.items() if key.startswith(f"{split}/")]
        if shown:
            out.print(f"[bold]{name}[/bold]: {split} {'  '.join(shown)}  (step {best['step']} of {summary['steps']})")
    spent = "  ".join(f"{phase} {value:.1f}" for phase, value in seconds.items() if phase != "total")
    out.print(f"{summary['ended']} in {seconds['total']:.1f} s: {spent}", soft_wrap=True)
    out.print(f"{summary['verdict']}  (goodput {100 * summary['goodput']:.0f} %)", soft_wrap=True, markup=False)
    if not complete:
        out.print(f"interrupted in the last evaluation; to make it up, add --workdir {workdir}", soft_wrap=True)
        return
    out.print(f"run folder: {workdir}", soft_wrap=True)
    out.print(f"report:     {workdir / 'report.html'}", soft_wrap=True)
    python = os.path.relpath(sys.executable) if Path(sys.executable).is_relative_to(Path.cwd()) else sys.executable
    out.print(f"curves:     {python} -m tensorboard.main --logdir {workdir}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
