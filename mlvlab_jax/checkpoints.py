"""`mlvlab checkpoint ACTION --workdir RUN`: what a run has saved, whether it is intact, its arrays for elsewhere."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mlvlab_jax.cli import parse_checkpoint, pick_action, run_command

if TYPE_CHECKING:
    from mlvlab_jax.engine.checkpoint import CheckpointStore


class _Row(NamedTuple):
    step: int
    saved: str
    bytes: int
    monitored: float | None
    best: bool


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    texts = {name: text for name, (_, text) in _ACTIONS.items()}
    action = pick_action("checkpoint", __doc__, texts, arguments)
    parsed = _make_parser(action).parse_args(arguments[1:])
    return run_command(lambda: _ACTIONS[action][0](parsed))


def _make_parser(action: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"mlvlab checkpoint {action}", description=_ACTIONS[action][1])
    parser.add_argument("--workdir", type=Path, required=True, help="run folder")
    if action in ("show", "export"):
        parser.add_argument(
            "--checkpoint", type=parse_checkpoint, default="best", help="best (default), last or a step"
        )
    if action == "export":
        parser.add_argument("--out", type=Path, required=True, metavar="FILE.npz", help="file to write; must not exist")
    else:
        parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _open(workdir: Path) -> "CheckpointStore":
    from mlvlab_jax.engine.folder import read_config

    config = read_config(workdir)
    from mlvlab_jax.engine.checkpoint import CheckpointStore

    mode = config.training.early_stopping.mode
    return CheckpointStore(workdir / "checkpoints", config.checkpoint, mode=mode, read_only=True)


def _list(parsed: argparse.Namespace) -> int:
    with _open(parsed.workdir) as store:
        best = store.resolve("best") if store.steps() else None
        rows = [
            _Row(step, store.saved_at(step).isoformat(), store.count_bytes(step), store.monitored(step), step == best)
            for step in store.steps()
        ]
    if parsed.json:
        print(json.dumps([row._asdict() for row in rows]))
        return 0
    for row in rows:
        monitored = "" if row.monitored is None else f"{row.monitored:.5g}"
        shown = (
            f"{row.step:>10}  {row.saved}  {row.bytes / 1e6:>10,.2f} MB  {monitored:>10}  {'best' if row.best else ''}"
        )
        print(shown.rstrip())
    return 0


def _verify(parsed: argparse.Namespace) -> int:
    from mlvlab_jax.engine.folder import read_config

    read_config(parsed.workdir)
    from mlvlab_jax.engine.integrity import find_damage
    from mlvlab_jax.engine.recovery import list_steps
    from mlvlab_jax.errors import CheckpointError

    folder = parsed.workdir / "checkpoints"
    found = {step: find_damage(folder / str(step)) for step in list_steps(folder)}
    if parsed.json:
        print(json.dumps({str(step): lines for step, lines in found.items()}))
    else:
        for step, lines in found.items():
            print(f"{step:>10}  {'intact' if not lines else 'DAMAGED'}")
            for line in lines:
                print(f"{'':>12}{line}")
    if not found:
        raise CheckpointError(f"{folder}: no checkpoint; train first, or correct --workdir")
    return CheckpointError.exit_code if any(found.values()) else 0


def _show(parsed: argparse.Namespace) -> int:
    with _open(parsed.workdir) as store:
        step = store.resolve(parsed.checkpoint)
        arrays = store.describe(step)
    if parsed.json:
        print(json.dumps({"step": step, "arrays": [array._asdict() for array in arrays]}))
        return 0
    width = max(len(array.name) for array in arrays)
    print(f"step {step}, {len(arrays)} arrays, {sum(array.num_bytes for array in arrays) / 1e6:,.2f} MB")
    for array in arrays:
        print(f"  {array.name:<{width}}  {array.dtype:<9} {tuple(array.shape)}")
    return 0


def _export(parsed: argparse.Namespace) -> int:
    import numpy as np

    from mlvlab_jax.errors import ConfigError

    if parsed.out.suffix != ".npz" or parsed.out.exists():
        raise ConfigError(f"--out {parsed.out}: expected a new file that ends in .npz")
    with _open(parsed.workdir) as store:
        step = store.resolve(parsed.checkpoint)
        arrays: dict[str, Any] = store.read_arrays(step)
    with parsed.out.open("xb") as file:
        np.savez(file, **arrays)
    print(f"{parsed.out}: {len(arrays)} arrays of step {step}, {parsed.out.stat().st_size / 1e6:,.2f} MB")
    return 0


_ACTIONS = {
    "ls": (_list, "list the checkpoints of a run: step, time, size, monitored metric"),
    "verify": (_verify, "compare every file of every checkpoint with its digest; exit code 66 where one is damaged"),
    "show": (_show, "list the arrays of a checkpoint"),
    "export": (_export, "write the arrays of a checkpoint as one .npz for numpy"),
}


if __name__ == "__main__":
    sys.exit(main())
