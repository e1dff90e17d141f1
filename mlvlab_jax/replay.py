"""`mlvlab replay --workdir RUN --step N`: make a step of a run again, and compare it with what was logged.

State, batch and random numbers of the step are rebuilt from the newest intact checkpoint before it. The steps from
there to the end of the log window that holds it are made again, and the window's numbers are held against those of
metrics.jsonl, bit for bit. The run may be going on: nothing of it is changed. Exit code 70 where a number is another
one.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlvlab_jax.cli import run_command

if TYPE_CHECKING:
    from rich.console import Console

    from mlvlab_jax.config.schema import Config
    from mlvlab_jax.engine.experiment import Experiment
    from mlvlab_jax.engine.replay import Replayed

#: Another number than the logged one, as of `EX_SOFTWARE`.
_DIFFERENT = 70
#: Examples printed; the files have all of them.
_NUM_PRINTED = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 70 where what was logged does not come out again."""
    parser = argparse.ArgumentParser(
        prog="mlvlab replay", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, required=True, help="run folder")
    parser.add_argument("--step", type=int, required=True, metavar="N", help="the step to make again, from 1")
    parser.add_argument(
        "--per-example",
        action="store_true",
        help="rank the examples of the step's batch by gradient norm and loss, and write them with their images to "
        "WORKDIR/replay/step-N; takes the time of a step for each example",
    )
    parsed = parser.parse_args(arguments)
    return run_command(lambda: _replay(parsed))


def _replay(parsed: argparse.Namespace) -> int:
    from mlvlab_jax.engine.folder import read_config
    from mlvlab_jax.errors import ConfigError

    workdir, step = parsed.workdir, parsed.step
    config = read_config(workdir)
    if step < 1:
        raise ConfigError(f"--step {step}: expected 1 or more; step 1 is the first update")
    from rich.console import Console

    from mlvlab_jax.engine.compile_cache import compile_cache_folder, enable_compile_cache
    from mlvlab_jax.engine.experiment import make_experiment
    from mlvlab_jax.engine.origin import Records, check_step, compare_session, find_origin, find_way, read_windows
    from mlvlab_jax.engine.replay import replay

    records: Records = read_windows(workdir)
    check_step(workdir, records, step=step)
    if config.compile_cache:
        enable_compile_cache(compile_cache_folder())
    experiment = make_experiment(config)
    for line in compare_session(workdir, config, experiment):
        _note(f"bits may differ: {line}")
    origin = find_origin(workdir, config, experiment, step=step, note=_note)
    records, left_out = find_way(workdir, config, step=step, records=records)
    replayed = replay(config, experiment, origin, step=step, records=records, left_out=left_out)
    out = Console(highlight=False)
    _print_step(replayed, out)
    if not all(map(math.isfinite, replayed.scalars.values())):
        _print_not_finite(config, experiment, replayed, out)
    if parsed.per_example:
        _look_at_examples(workdir, config, experiment, replayed, out)
    return 0 if replayed.equal else _DIFFERENT


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


def _print_step(replayed: "Replayed", out: "Console") -> None:
    from mlvlab_jax.engine.replay import is_equal

    scalars, step = replayed.scalars, replayed.step
    begin = f"the checkpoint of step {replayed.first}" if replayed.first else "the initial state"
    out.print(f"[bold]step {step}[/bold], made again from {begin}", soft_wrap=True)
    loss = scalars["loss_sum"] / scalars["num_examples"]
    out.print(f"loss {loss:.6g}  grad norm {scalars['grad_norm']:.6g}  learning rate {scalars['learning_rate']:.6g}")
    out.print(f"examples {' '.join(map(str, replayed.example_id.tolist()))}", soft_wrap=True)
    if not replayed.logged:
        why = "the run stopped before the end of its log window, or has not come to it"
        out.print(f"\nno record in metrics.jsonl covers step {step}: {why}", soft_wrap=True)
        return
    lines = [f"{f'window to step {replayed.last}':<24}{'logged':<24}made again"]
    for name, logged in replayed.logged.items():
        found = replayed.found[name]
        lines.append(f"{name:<24}{logged!r:<24}{found!r:<24}{'equal' if is_equal(found, logged) else 'NOT EQUAL'}")
    out.print("", *lines, sep="\n", soft_wrap=True, markup=False)
    verdict = "[green]equal[/green], bit for bit" if replayed.equal else "[red]not equal[/red]"
    out.print(f"the log window that holds step {step} is {verdict}", soft_wrap=True)
    if not replayed.equal:
        out.print(
            "bits depend on versions, devices and code, on GPUs also on XLA_FLAGS=--xla_gpu_deterministic_ops=true; "
            "where all of these are the same, memory or arithmetic has failed",
            soft_wrap=True,
        )


def _print_not_finite(config: "Config", experiment: "Experiment", replayed: "Replayed", out: "Console") -> None:
    """Names the first thing that is not, in the order in which a step comes by them."""
    from mlvlab_jax.engine.per_example import find_not_finite
    from mlvlab_jax.engine.replay import read_batch

    batch, placed = read_batch(config, experiment, step=replayed.step)
    found = find_not_finite(experiment.model, config, replayed.before, placed)
    ids = batch["example_id"].tolist()
    lines = [f"step {replayed.step} is not finite; what is not:"]
    if found.params:
        lines.append(f"  before the step {len(found.params)} parameters, first {found.params[0]}")
    if found.examples:
        first = ids[found.examples[0]]
        name = experiment.data.train.source.name(first)
        lines.append(f"  losses of {len(found.examples)} of {len(ids)} examples, first {first} ({name})")
    if found.gradients:
        ends = f"first {found.gradients[0]}, last {found.gradients[-1]}"
        lines.append(f"  gradients of {len(found.gradients)} parameters, in forward order {ends}")
    out.print("", *lines, sep="\n", soft_wrap=True, markup=False)


def _look_at_examples(
    workdir: Path, config: "Config", experiment: "Experiment", replayed: "Replayed", out: "Console"
) -> None:
    """Measures, writes and prints the examples of the batch, the most suspicious first."""
    from mlvlab_jax.engine.per_example import measure_examples, see_examples
    from mlvlab_jax.engine.replay import read_batch
    from mlvlab_jax.files import write_json
    from mlvlab_jax.report.examples import describe_examples, write_page_of_examples

    batch, placed = read_batch(config, experiment, step=replayed.step)
    measured = measure_examples(experiment.model, config, replayed.before, placed)
    seen = see_examples(config, replayed.before, placed, num_classes=len(experiment.data.class_names))
    order = measured.rank()
    rows = describe_examples(experiment.data, batch, measured, seen.target, order=order)
    folder = workdir / "replay" / f"step-{replayed.step}"
    write_json(folder / "examples.json", {"step": replayed.step, "examples": rows})
    write_page_of_examples(
        folder / "index.html",
        rows,
        seen=seen.image[order],
        stored=batch["image"][order],
        title=f"{workdir.resolve().name}, step {replayed.step}",
        scalars=replayed.scalars,
    )
    _print_examples(rows, out)
    out.print(f"all {len(rows)}, with their images: {folder / 'index.html'}", soft_wrap=True, markup=False)


def _print_examples(rows: Sequence[dict[str, Any]], out: "Console") -> None:
    from rich.markup import escape
    from rich.table import Column, Table

    from mlvlab_jax.data.findings import short_name

    numbers = (Column(name, justify="right") for name in ("grad norm", "loss"))
    table = Table("", "id", *numbers, "label", "name", box=None)
    for rank, row in enumerate(rows[:_NUM_PRINTED], start=1):
        values = (f"{row[name]:.4g}" for name in ("grad_norm", "loss"))
        table.add_row(str(rank), str(row["id"]), *values, escape(row["label"]), escape(short_name(row["name"])))
    out.print("", table, sep="\n")


if __name__ == "__main__":
    sys.exit(main())
