"""`python -m mlvlab_jax.pack --config FILE --out DIR`: pack a data source into a few large files that read fast."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlvlab_jax.cli import add_config_arguments, run_command, run_configured

if TYPE_CHECKING:
    from mlvlab_jax.config.load import LoadedConfig
    from mlvlab_jax.data.pack_index import PackIndex


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="mlvlab pack", description=__doc__)
    add_config_arguments(parser)
    parser.add_argument("--out", type=Path, help="folder of the pack; an interrupted one is gone on with")
    parser.add_argument(
        "--encode",
        choices=("keep", "raw"),
        help="keep: image files as they are (default where there are files); raw: pixels under pipeline.preprocess",
    )
    parser.add_argument(
        "--max-side", type=_positive, metavar="PX", help="reduce image files whose longer side is longer"
    )
    parser.add_argument(
        "--verify", action="store_true", help="check every file of the pack in --out and do nothing else"
    )
    parsed = parser.parse_args(arguments)
    asks = parsed.print_config or parsed.schema
    if parsed.out is None and not asks:
        parser.error("the following arguments are required: --out")
    if parsed.verify and not asks:
        return run_command(lambda: _verify(parsed))
    return run_configured(parsed, lambda loaded: _pack(parsed, loaded))


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of pixels")
    return int(text)


def _verify(parsed: argparse.Namespace) -> int:
    from mlvlab_jax.data.pack_index import verify_pack

    _print_splits(verify_pack(parsed.out))
    print("whole")
    return 0


def _pack(parsed: argparse.Namespace, loaded: "LoadedConfig") -> int:
    from rich.console import Console
    from rich.progress import Progress as Bar

    from mlvlab_jax.data.pack import Progress, pack

    config = loaded.config
    console = Console(stderr=True)
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("packing", total=None)
        progress = Progress(lambda total: bar.update(task, total=total), lambda count: bar.update(task, advance=count))
        index = pack(
            config.data,
            config.pipeline,
            folder=parsed.out,
            encoding=parsed.encode,
            max_side=parsed.max_side,
            progress=progress,
        )
    _print_splits(index)
    print(f"to train on it: data.name=array_record data.params.path={parsed.out}")
    return 0


def _print_splits(index: "PackIndex") -> None:
    for name, split in index.splits.items():
        num_bytes = sum(shard.num_bytes for shard in split.shards)
        size = f"{num_bytes / 2**20:.1f} MiB in {len(split.shards)} shards"
        left_out = f", {len(split.bad)} unreadable left out" if split.bad else ""
        print(f"{name}: {split.num_examples} examples, {size}{left_out}")


if __name__ == "__main__":
    sys.exit(main())
