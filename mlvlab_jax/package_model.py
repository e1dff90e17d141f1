"""`mlvlab package --workdir DIR`: the model of a run as one folder to hand on; `--verify PATH` checks such a folder."""

import argparse
import contextlib
import datetime
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from mlvlab_jax.cli import parse_checkpoint, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="mlvlab package", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--workdir", type=Path, help="run folder to package")
    what.add_argument("--verify", type=Path, metavar="PATH", help="package, folder or tar, to check; makes nothing")
    parser.add_argument("--checkpoint", type=parse_checkpoint, default="best", help="best (default), last, or a step")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to (default: WORKDIR/package)")
    parser.add_argument("--tar", action="store_true", help="also write FOLDER.tar")
    parser.add_argument("--name", help="what to call the model (default: as the run folder)")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parsed = parser.parse_args(arguments)
    return run_command(lambda: _verify(parsed) if parsed.verify else _package(parsed))


def _verify(parsed: argparse.Namespace) -> int:
    from mlvlab_jax.package.load import load_package

    package = load_package(parsed.verify)
    _print(parsed, package.manifest, {"path": str(parsed.verify), "opened_from": package.source})
    return 0


def _package(parsed: argparse.Namespace) -> int:
    from mlvlab_jax.engine.folder import read_config

    config = read_config(parsed.workdir)
    from mlvlab_jax.engine.compile_cache import compile_cache_folder, enable_compile_cache
    from mlvlab_jax.package.archive import write_archive
    from mlvlab_jax.package.build import write_package
    from mlvlab_jax.package.verify import check_listing

    if config.compile_cache:
        enable_compile_cache(compile_cache_folder())
    today = datetime.datetime.now(datetime.UTC).date()
    with _tidying_up_when_ended():
        out = write_package(parsed.workdir, checkpoint=parsed.checkpoint, out=parsed.out, name=parsed.name, today=today)
        facts = {"path": str(out)}
        if parsed.tar:
            facts["tar"] = f"{out}.tar"
            write_archive(out, Path(facts["tar"]))
    _print(parsed, check_listing(out), facts)
    return 0


@contextlib.contextmanager
def _tidying_up_when_ended() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that nothing half made stays; the exit code is that of the signal."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _print(parsed: argparse.Namespace, manifest: Any, facts: dict[str, str]) -> None:
    num_bytes = sum(record.bytes for record in manifest.files.values())
    if parsed.json:
        tree = {"name": manifest.name, "sha256": manifest.sha256, "bytes": num_bytes, "step": manifest.run.step}
        print(json.dumps({**tree, "metrics": manifest.metrics, **facts}))
        return
    print(f"{manifest.name}: {manifest.model.name}, {manifest.model.num_params:,} parameters, step {manifest.run.step}")
    for name, value in manifest.metrics.items():
        print(f"  {name:<24}" + ("not finite" if value is None else f"{value:.4f}"))
    print(f"{len(manifest.files) + 1} files, {num_bytes / 2**20:.1f} MiB; digests and golden outputs checked")
    print(f"package: {facts['path']}  ({manifest.sha256[:12]})")
    if "tar" in facts:
        print(f"tar:     {facts['tar']}")
    if parsed.workdir:
        print(f"check:   mlvlab package --verify {facts.get('tar', facts['path'])}")
        print(f"card:    {facts['path']}/README.md")


if __name__ == "__main__":
    sys.exit(main())
