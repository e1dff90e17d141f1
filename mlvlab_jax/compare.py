"""`mlvlab compare RUN_A RUN_B`: the accuracy of two runs on the same examples, and whether they can be told apart."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlvlab_jax.cli import run_command

if TYPE_CHECKING:
    from mlvlab_jax.evaluation.compare import Comparison


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="mlvlab compare", description=__doc__)
    parser.add_argument("run_a", type=Path, help="run folder A, the one to beat; or a folder mlvlab evaluate wrote")
    parser.add_argument("run_b", type=Path, help="run folder B")
    parser.add_argument("--split", default="test", help="evaluated split to compare on (default test)")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parsed = parser.parse_args(arguments)
    return run_command(lambda: _compare(parsed))


def _compare(parsed: argparse.Namespace) -> int:
    from mlvlab_jax.evaluation.compare import compare
    from mlvlab_jax.evaluation.predictions import read_predictions

    paths = [_find(run, parsed.split) for run in (parsed.run_a, parsed.run_b)]
    comparison = compare(*map(read_predictions, paths))
    if parsed.json:
        print(json.dumps({"run_a": str(parsed.run_a), "run_b": str(parsed.run_b), **comparison.to_tree()}))
    else:
        _print(comparison, parsed)
    return 0


def _find(run: Path, split: str) -> Path:
    """The predictions of a run, or those in a folder of predictions alone."""
    alone = run / "predictions.parquet"
    return alone if alone.is_file() else run / "evaluation" / split / "predictions.parquet"


def _print(comparison: "Comparison", parsed: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    console = Console(highlight=False)
    console.print(f"[bold]{comparison.split}[/bold]: {comparison.num_examples:,} examples, met by both")
    right = [Column(header, justify="right") for header in ("accuracy", "95 % interval", "right alone")]
    table = Table("", Column("run", overflow="fold"), *right, box=None)
    for letter, run, accuracy, alone in (
        ("A", parsed.run_a, comparison.accuracy_a, comparison.only_a),
        ("B", parsed.run_b, comparison.accuracy_b, comparison.only_b),
    ):
        limits = f"{accuracy.low:.4f} to {accuracy.high:.4f}"
        table.add_row(letter, escape(str(run)), f"{accuracy.value:.4f}", limits, f"{alone:,}")
    console.print(table)
    console.print(f"both right: {comparison.both:,}; both wrong: {comparison.neither:,}")
    console.print(
        f"B - A: {100 * comparison.difference:+.2f} points, 95 % interval {100 * comparison.low:+.2f} to "
        f"{100 * comparison.high:+.2f} (Tango); exact McNemar p = {comparison.p_value:.3g}"
    )
    console.print(f"[bold]{comparison.verdict}[/bold]", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
