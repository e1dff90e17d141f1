"""An evaluation as a person reads it in a terminal."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from mlvlab_jax.data.findings import short_name

#: Classes, mistakes and slices shown; the files have all of them.
_NUM_CLASSES, _NUM_MISTAKES, _NUM_SLICES = 5, 5, 20
#: Mistakes below which the bootstrap, which draws among them, knows too little.
_FEW_MISTAKES = 10


def print_evaluation(tree: Mapping[str, Any], *, folder: Path, console: Console) -> None:
    """Prints what evaluation.json holds, and where it lies.

    Args:
        tree: Of `Evaluation.to_tree`.
        folder: Where the files are.
        console: Where to print.
    """
    console.print(
        f"[bold]{tree['split']}[/bold], step {tree['step']} ({tree['checkpoint']}): {tree['num_examples']:,} examples, "
        f"{len(tree['class_names'])} classes"
    )
    _print_metrics(tree, console)
    _print_calibration(tree["calibration"], console)
    _print_classes(tree, console)
    _print_slices(tree["slices"], console)
    _print_mistakes(tree, console)
    console.print()
    console.print(f"files: {escape(str(folder))}/evaluation.json, predictions.parquet", soft_wrap=True)


def _print_metrics(tree: Mapping[str, Any], console: Console) -> None:
    table = Table("metric", _right("value"), _right("95 % interval"), "method", box=None)
    for name, one in tree["metrics"].items():
        table.add_row(name, f"{one['value']:.4f}", f"{one['low']:.4f} to {one['high']:.4f}", one["method"])
    console.print("", table, sep="\n")
    num_wrong = tree["num_examples"] - sum(row[at] for at, row in enumerate(tree["confusion"]))
    if num_wrong < _FEW_MISTAKES:
        console.print(f"only {num_wrong} mistakes: the intervals of the bootstrap are too narrow, Wilson's is not")


def _print_calibration(calibration: Mapping[str, Any], console: Console) -> None:
    before, after = calibration["before"], calibration["after"]
    if after is None:
        console.print(
            "\ncalibration: no temperature; it is fitted on a validation split that shows mistakes, never on the one "
            "that is measured",
            soft_wrap=True,
        )
        return
    table = Table("calibration", _right("as it is"), _right("calibrated"), box=None)
    for name in ("nll", "ece", "adaptive_ece", "brier"):
        table.add_row(name, f"{before[name]:.4f}", f"{after[name]:.4f}")
    console.print("", table, sep="\n")
    console.print(f"calibrated: logits over {calibration['temperature']:.3f}, fitted on {calibration['fitted_on']}")


def _print_classes(tree: Mapping[str, Any], console: Console) -> None:
    table = Table("worst classes", *map(_right, ("examples", "precision", "recall", "95 % interval")), box=None)
    for row in sorted(tree["per_class"], key=lambda row: (row["recall"], row["precision"]))[:_NUM_CLASSES]:
        limits = f"{row['recall_low']:.3f} to {row['recall_high']:.3f}"
        table.add_row(
            escape(row["name"]), str(row["support"]), f"{row['precision']:.3f}", f"{row['recall']:.3f}", limits
        )
    console.print("", table, sep="\n")


def _print_slices(slices: Mapping[str, Any], console: Console) -> None:
    table = Table("slice", "value", *map(_right, ("examples", "accuracy", "95 % interval")), box=None)
    for name, rows in slices.items():
        for row in rows[:_NUM_SLICES]:
            limits = f"{row['low']:.3f} to {row['high']:.3f}"
            table.add_row(escape(name), escape(row["value"]), str(row["count"]), f"{row['accuracy']:.3f}", limits)
    console.print("", table, sep="\n")


def _print_mistakes(tree: Mapping[str, Any], console: Console) -> None:
    if not tree["mistakes"]:
        return
    table = Table("most confident mistakes", "is", "taken for", _right("confidence"), box=None)
    for row in tree["mistakes"][:_NUM_MISTAKES]:
        names = (tree["class_names"][row[key]] for key in ("label", "prediction"))
        table.add_row(escape(short_name(row["id"])), *map(escape, names), f"{row['confidence']:.3f}")
    console.print("", table, sep="\n")


def _right(header: str) -> Column:
    return Column(header, justify="right")


def print_robustness(tree: Mapping[str, Any], *, console: Console) -> None:
    """Prints what corruptions.json holds: the error of each corruption in each severity, and calibration under it."""
    severities = range(1, len(next(iter(tree["corruptions"].values()))) + 1)
    table = Table("error, by severity", *(_right(str(severity)) for severity in severities), _right("mean"), box=None)
    for name, rows in tree["corruptions"].items():
        errors = [row["error"] for row in rows]
        table.add_row(name, *(f"{error:.4f}" for error in errors), f"{sum(errors) / len(errors):.4f}")
    eces = [sum(rows[at]["ece"] for rows in tree["corruptions"].values()) for at in range(len(severities))]
    table.add_row("calibration error (ECE)", *(f"{ece / len(tree['corruptions']):.4f}" for ece in eces), "")
    console.print("", table, sep="\n")
    clean, mean = tree["clean"], tree["mean_corruption_error"]
    console.print(
        f"mean corruption error {mean:.4f}, {mean - clean['error']:+.4f} against {clean['error']:.4f} of the images as "
        f"they are; their ECE is {clean['ece']:.4f}",
        soft_wrap=True,
    )
