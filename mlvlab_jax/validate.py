"""`python -m mlvlab_jax.validate --config FILE`: check every example of the data, and list what is wrong."""

import argparse
import datetime
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlvlab_jax.cli import add_config_arguments, run_configured

if TYPE_CHECKING:
    from mlvlab_jax.config.load import LoadedConfig
    from mlvlab_jax.data.findings import ValidationReport


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="mlvlab validate", description=__doc__)
    add_config_arguments(parser)
    parser.add_argument("--out", type=Path, help="folder of the report (default: experiments/validation/CONFIG-TIME)")
    parsed = parser.parse_args(arguments)
    return run_configured(parsed, lambda loaded: _validate(parsed, loaded))


def _validate(parsed: argparse.Namespace, loaded: "LoadedConfig") -> int:
    config, name = loaded.config, loaded.name
    from mlvlab_jax.data.inspection import inspect_data
    from mlvlab_jax.data.quarantine import write_quarantine
    from mlvlab_jax.data.report_page import render_page
    from mlvlab_jax.errors import DataError
    from mlvlab_jax.files import write_atomic
    from mlvlab_jax.pages import write_page

    inspection = inspect_data(config.data, config.pipeline.preprocess, config.validation)
    report = inspection.report
    time = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    out = parsed.out or Path("experiments") / "validation" / f"{name}-{time}"
    write_atomic(out / "validation_report.json", report.to_json().encode())
    write_page(out / "validation_report.html", render_page(inspection, title=name))
    write_quarantine(out / "quarantine.jsonl", inspection.bad)
    _print_report(report, out, num_bad=len(inspection.bad))
    return DataError.exit_code if report.num_errors and config.validation.mode == "strict" else 0


def _print_report(report: "ValidationReport", out: Path, *, num_bad: int) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    from mlvlab_jax.data.findings import short_name

    console = Console(highlight=False)
    sizes = ", ".join(f"{split.name} {split.num_examples:,}" for split in report.splits)
    console.print(f"{report.source}: {sizes} examples, {len(report.class_names)} classes, in {report.seconds:.1f} s")
    if report.findings:
        table = Table("", "check", "split", "count", Column("first examples", overflow="fold"))
        for finding in report.findings:
            shown = [f"{short_name(example.name)} {example.detail}".strip() for example in finding.examples[:3]]
            colour = "red" if finding.severity == "error" else "yellow"
            cells = (finding.kind, finding.split, f"{finding.count:,}", "\n".join([finding.message, *shown]))
            table.add_row(f"[{colour}]{finding.severity}[/{colour}]", *map(escape, cells))
        console.print(table)
    else:
        console.print("nothing wrong was found")
    console.print(f"report:     {out / 'validation_report.html'}", soft_wrap=True)
    if num_bad:
        path = out / "quarantine.jsonl"
        console.print(f"to leave out the {num_bad} bad examples, train with pipeline.quarantine={path}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
