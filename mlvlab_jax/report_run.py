"""`mlvlab report --workdir DIR`: one static page about a run, finished or not."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mlvlab_jax.cli import run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="mlvlab report", description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True, help="run folder")
    parser.add_argument("--out", type=Path, help="HTML file to write (default: report.html in the run folder)")
    parsed = parser.parse_args(arguments)
    return run_command(lambda: _report(parsed))


def _report(parsed: argparse.Namespace) -> int:
    from mlvlab_jax.report.page import write_report

    print(f"report: {write_report(parsed.workdir, out=parsed.out)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
