"""`mlvlab shadow`: recorded requests put to another version, and where it would have answered otherwise.

Requests are recorded by a server with recording.folder set. Nothing is sent over a network, and no client sees these
answers.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlvlab_jax.cli import run_command

if TYPE_CHECKING:
    from mlvlab_jax.serving.predictor import Predictor
    from mlvlab_jax.serving.replay import Replay

#: Rows of a printed table; the JSON has more.
_NUM_PRINTED = 8


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="mlvlab shadow", description=__doc__)
    parser.add_argument("--recorded", type=Path, required=True, metavar="DIR", help="recording.folder of a server")
    version = parser.add_mutually_exclusive_group(required=True)
    version.add_argument("--package", type=Path, metavar="PATH", help="the version to ask: a package, folder or tar")
    version.add_argument("--model", metavar="NAME:VERSION|NAME@ALIAS", help="the version to ask, by the registry")
    parser.add_argument(
        "--registry",
        default="experiments/registry",
        metavar="PLACE",
        help="folder, or address of an MLflow server or database (default: experiments/registry)",
    )
    parser.add_argument("--limit", type=_parse_limit, metavar="N", help="only the newest N requests")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the whole report as JSON")
    parsed = parser.parse_args(arguments)
    return run_command(lambda: _shadow(parsed))


def _shadow(parsed: argparse.Namespace) -> int:
    from mlvlab_jax.files import write_json
    from mlvlab_jax.monitoring.recorder import read_recorded
    from mlvlab_jax.serving.replay import replay

    requests = read_recorded(parsed.recorded, limit=parsed.limit)
    replayed = replay(requests, _open(parsed))
    _print(replayed)
    if parsed.out:
        write_json(parsed.out, replayed.to_tree())
        print(f"written to {parsed.out}")
    return 0


def _open(parsed: argparse.Namespace) -> "Predictor":
    from mlvlab_jax.serving.predictor import Predictor

    if parsed.package:
        return Predictor.open(parsed.package)
    from mlvlab_jax.errors import RegistryError
    from mlvlab_jax.registry.model_registry import ModelRegistry, open_store
    from mlvlab_jax.registry.names import parse_reference

    name, version, alias = parse_reference(parsed.model)
    which = version or alias
    if which is None:
        raise RegistryError(f"{parsed.model!r}: expected NAME:VERSION or NAME@ALIAS")
    registry = ModelRegistry(open_store(parsed.registry))
    record = registry.verify(name, which)
    return Predictor.open(registry.open_package(name, record.version), name=name, version=record.version)


def _print(replayed: "Replay") -> None:
    tree = replayed.to_tree()
    agreement, confidence, classes = replayed.agreement, tree["confidence"], tree["classes"]
    limits = f"95 % interval {agreement.low:.2%} to {agreement.high:.2%}"
    _print_table(
        ("requests", f"{len(replayed.differences):,}"),
        [
            ("recorded", ", ".join(f"{name}: {num:,}" for name, num in replayed.recorded.items())),
            ("replayed", f"{replayed.model} {replayed.version}"),
            ("same class", f"{agreement.value:.2%}, {limits}"),
            ("a class's probability", f"changes by {tree['mean_absolute_change']:.4f} on average"),
            ("confidence", f"{confidence['before']:.4f}, now {confidence['after']:.4f} on average"),
            ("unreadable, not finite", f"{tree['num_unreadable']:,}, {tree['num_nonfinite']:,}"),
            ("classes now gone", ", ".join(classes["only_before"]) or "none"),
            ("classes now new", ", ".join(classes["only_after"]) or "none"),
        ],
    )
    moves = [(move["before"], move["after"], f"{move['num']:,}") for move in tree["moves"]]
    _print_table(("was", "is now", "requests"), moves[:_NUM_PRINTED])
    rows = [
        (ascii(row.request_id)[1:-1], _tell(row.before, row.before_confidence), _tell(row.after, row.after_confidence))
        for row in replayed.most_different
    ]
    _print_table(("most different", "was", "is now"), rows[:_NUM_PRINTED])


def _tell(name: str, confidence: float) -> str:
    return f"{name} {confidence:.3f}"


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    if not rows:
        return
    table = Table(*(Column(title, overflow="fold") for title in head), box=None, pad_edge=False)
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(highlight=False)
    console.print(table)
    console.print()


def _parse_limit(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of requests, 1 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
