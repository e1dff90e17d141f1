"""`mlvlab monitor report|status --folder DIR`: whether a served model still sees what it was trained on.

`report` writes one static page, `status` says the last verdict in words.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from mlvlab_jax.cli import run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="mlvlab monitor", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    report = actions.add_parser("report", help="write a page: verdict, windows, features, tests, the worst images")
    report.add_argument("--out", type=Path, help="HTML file to write (default: drift.html in the folder)")
    report.add_argument("--window", type=int, help="window to look at (default: the last that tells something)")
    status = actions.add_parser("status", help="say the last verdict; exit code 0 whatever it is")
    status.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    for action in (report, status):
        action.add_argument("--folder", type=Path, required=True, help="what monitoring.folder names")
    parsed = parser.parse_args(arguments)
    return run_command(lambda: _report(parsed) if parsed.action == "report" else _tell(parsed))


def _report(parsed: argparse.Namespace) -> int:
    from mlvlab_jax.monitoring.page import write_drift_page

    print(f"report: {write_drift_page(parsed.folder, out=parsed.out, number=parsed.window)}")
    return 0


def _tell(parsed: argparse.Namespace) -> int:
    from mlvlab_jax.monitoring.accuracy import tell_accuracy
    from mlvlab_jax.monitoring.findings import find_changes, tell_state
    from mlvlab_jax.monitoring.history import read_history

    history = read_history(parsed.folder)
    findings = find_changes(history)
    told = tell_state(findings, history)
    if parsed.json:
        tree = {
            "model": history.reference.model,
            "version": history.reference.version,
            "state": findings.state,
            "told": told,
            "window": findings.last.window if findings.last else None,
            "since": findings.since.window if findings.since else None,
            "changes": findings.changes,
            "live": dataclasses.asdict(history.live) if history.live else None,
        }
        print(json.dumps(tree))
    else:
        live = [tell_accuracy(history.live)] if history.live else []
        print("\n".join([told, *(f"  {change}" for change in findings.changes), *live]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
