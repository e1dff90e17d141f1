"""Goal C10: how long a save stops training when it goes on behind it, over one that is waited for.

The state is that of ViT-S/16 with AdamW (264 MB), saved by the engine's CheckpointStore. "asynchronous": seconds in
`save`, until training may change the state. "synchronous": until it is on disk. "slowed": a product of matrices while a
save goes on behind it, over the same without; where the cores are few this is paid as well. In turns, A B B A.

"verified" and "trusted" are restores of that state with every file compared with its digest first, and without, in
turns, each from opening the store to arrays on the device. "checked" and "blind" are starts of a run up to there, from
making the model on, with the comparison in a thread meanwhile, as runs have it, and without. "verification" is what a
verified restore takes more than the trusted one beside it, over that one; "verification_beside" what the checked starts
take more, over a trusted restore: a small difference of long times, and on cores that the start itself needs.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from mlvlab_jax.config.fields import params_from
from mlvlab_jax.config.schema import CheckpointConfig
from mlvlab_jax.engine.checkpoint import CheckpointStore
from mlvlab_jax.engine.recovery import begin_looking, list_steps, recover
from mlvlab_jax.engine.state import TrainState

if TYPE_CHECKING:
    from cases import Case

NUM_SAVES, NUM_RESTORES = 8, 24
#: Its product takes about as long as a training step of a small network.
WORK_SIZE = 1024


def measure_saves(state: TrainState, folder: Path, *, num_saves: int) -> dict[str, Any]:
    """Seconds that each save stopped training, by kind, the first of each left out; and the size of the state."""
    work = jax.jit(lambda x: x @ x / WORK_SIZE)
    array = jnp.ones((WORK_SIZE, WORK_SIZE))
    found: dict[str, list[float]] = {"asynchronous": [], "synchronous": [], "working": [], "idle": []}
    with CheckpointStore(folder, params_from(CheckpointConfig, {}), mode="min") as store:
        for step, kind in enumerate(_order(num_saves + 1, ("asynchronous", "synchronous")), 1):
            idle = _seconds_of(lambda: jax.block_until_ready(work(array)))
            started = time.perf_counter()
            store.save(state, {}, step=step, monitored=None)
            if kind == "synchronous":
                store.wait()
            seconds = time.perf_counter() - started
            working = _seconds_of(lambda: jax.block_until_ready(work(array)))
            store.wait()
            if step > 2:
                found[kind].append(seconds)
                if kind == "asynchronous":
                    found["idle"].append(idle)
                    found["working"].append(working)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    return {"state_bytes": size, "seconds": {name: [round(s, 6) for s in values] for name, values in found.items()}}


def measure_restores(state: TrainState, folder: Path, *, num_restores: int) -> dict[str, list[float]]:
    """Seconds of restores of the newest checkpoint in `folder`, by kind, the first of each left out."""
    layout = jax.tree.map(lambda leaf: leaf.sharding, state)
    found: dict[str, list[float]] = {"verified": [], "trusted": []}
    for turn, kind in enumerate(_order(num_restores + 1, ("verified", "trusted"))):
        started = time.perf_counter()
        with CheckpointStore(folder, params_from(CheckpointConfig, {}), mode="min", read_only=True) as store:
            restored, _ = store.restore(store.resolve("last"), state, layout, verify=kind == "verified")
            jax.block_until_ready(restored)
        if turn >= 2:
            found[kind].append(round(time.perf_counter() - started, 6))
    return found


def measure_starts(case: "Case", folder: Path, *, num_starts: int) -> dict[str, list[float]]:
    """Seconds from nothing to the newest checkpoint in `folder` on the device, by kind, the first of each left out."""
    from jax_steps import make_side

    found: dict[str, list[float]] = {"checked": [], "blind": []}
    for turn, kind in enumerate(_order(num_starts + 1, ("checked", "blind"))):
        started = time.perf_counter()
        looking = begin_looking(folder) if kind == "checked" else None
        state = make_side(case).state
        step = list_steps(folder)[-1] if looking is None else recover(folder, print, looking=looking)
        layout = jax.tree.map(lambda leaf: leaf.sharding, state)
        with CheckpointStore(folder, params_from(CheckpointConfig, {}), mode="min", read_only=True) as store:
            restored, _ = store.restore(step or 0, state, layout, verify=False)
            jax.block_until_ready(restored)
        if turn >= 2:
            found[kind].append(round(time.perf_counter() - started, 6))
    return found


def _order(num_turns: int, kinds: tuple[str, str]) -> Iterator[str]:
    for repeat in range(num_turns):
        yield from kinds if repeat % 2 == 0 else reversed(kinds)


def _seconds_of(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    for _ in range(8):
        call()
    return (time.perf_counter() - started) / 8


def main(arguments: Sequence[str] | None = None) -> None:
    from cases import Case
    from jax_steps import make_side

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tiny state, one turn: whether it runs, no numbers")
    quick = parser.parse_args(arguments).quick
    params = {"hidden_size": 16, "num_heads": 2, "num_layers": 1} if quick else {"variant": "S"}
    case = Case("vision_transformer", {**params, "patch_size": 16}, (224, 224, 3), 1000, 8)
    with tempfile.TemporaryDirectory() as folder:
        state, turns = make_side(case).state, 1 if quick else NUM_SAVES
        measured = measure_saves(state, Path(folder), num_saves=turns)
        measured["seconds"] |= measure_restores(state, Path(folder), num_restores=1 if quick else NUM_RESTORES)
        measured["seconds"] |= measure_starts(case, Path(folder), num_starts=turns)
    median = {name: statistics.median(values) for name, values in measured["seconds"].items()}
    seconds = measured["seconds"]
    pairs = {"C10_blocked": ("asynchronous", "synchronous"), "verification": ("verified", "trusted")}
    ratios = {
        name: [round(a / b, 4) for a, b in zip(seconds[x], seconds[y], strict=True)] for name, (x, y) in pairs.items()
    }
    ratios["verification"] = [round(ratio - 1, 4) for ratio in ratios["verification"]]
    summary = {
        "C10_blocked": round(median["asynchronous"] / median["synchronous"], 4),
        "asynchronous_ms": round(1e3 * median["asynchronous"], 2),
        "synchronous_ms": round(1e3 * median["synchronous"], 2),
        "slowed": round(median["working"] / median["idle"], 3),
        "verified_ms": round(1e3 * median["verified"], 2),
        "trusted_ms": round(1e3 * median["trusted"], 2),
        "checked_ms": round(1e3 * median["checked"], 2),
        "blind_ms": round(1e3 * median["blind"], 2),
        "verification": round(statistics.median(ratios["verification"]), 4),
        "verification_beside": round((median["checked"] - median["blind"]) / median["trusted"], 4),
    }
    print(json.dumps({"results": {**measured, "ratios": ratios}, "summary": summary}))


if __name__ == "__main__":
    sys.exit(main())
