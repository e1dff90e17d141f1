"""Two processes that train the same network, ours and the peer's: equal at the start, then timed in turns."""

import dataclasses
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cases import Case
from turns import ROOT, Worker, WorkerError, alternate, compare
from weights import measure_difference

HERE = Path(__file__).parent
#: Largest relative difference of the losses and of the gradients' norms, by precision.
TOLERANCES = {"float32": (1e-4, 1e-4), "bfloat16": (1e-2, 5e-2)}


def start_jax(environment: Mapping[str, str] | None = None) -> Worker:
    """Our side, with this interpreter."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    merged = {**os.environ, "PYTHONPATH": paths, **(environment or {})}
    return Worker([sys.executable, str(HERE / "jax_steps.py")], environment=merged)


def start_torch(python: str) -> Worker:
    """The peer."""
    return Worker([python, str(HERE / "torch_steps.py")], environment=os.environ)


@dataclasses.dataclass
class Pair:
    """A case made on both sides. `peer` is None where there is only ours."""

    case: Case
    ours: Worker
    peer: Worker | None
    timeout_s: float

    def make(self, *, compare_gradients: bool) -> dict[str, Any]:
        """Makes the case on both sides with the same weights and batch, and says how far apart they are.

        Raises:
            WorkerError: They differ by more than rounding.
        """
        with tempfile.TemporaryDirectory() as folder:
            weights, tree = f"{folder}/weights.npz", dataclasses.asdict(self.case)
            made = self.ours.ask("make", case=tree, weights=weights, timeout_s=self.timeout_s)
            if self.peer is None:
                return made | {"ours": self.ours.ask("check", gradients=None, timeout_s=self.timeout_s)}
            made |= self.peer.ask("make", case=tree, weights=weights, timeout_s=self.timeout_s)
            paths = [f"{folder}/{name}.npz" if compare_gradients else None for name in ("ours", "theirs")]
            sides = [
                side.ask("check", gradients=path, timeout_s=self.timeout_s)
                for side, path in zip((self.ours, self.peer), paths, strict=True)
            ]
            made |= {"ours": sides[0], "theirs": sides[1]}
            if compare_gradients:
                made["gradients_apart"] = measure_difference(*(dict(np.load(str(path))) for path in paths))
        return made | {"apart": self._check(made)}

    def prepare(self, kinds: Sequence[str]) -> dict[str, Any]:
        """Compiles on both sides at once; of each kind the seconds of it and the losses before the first updates.

        Raises:
            WorkerError: A side failed, or the losses after one update differ by more than rounding.
        """
        sides = {side: [kind for kind in kinds if self._side(kind) is side] for side in (self.ours, self.peer) if side}
        found: dict[str, Any] = {}
        for place in range(max(len(asked) for asked in sides.values())):
            now = [(side, asked[place]) for side, asked in sides.items() if place < len(asked)]
            for side, kind in now:
                side.send("prepare", kind=kind)
            for side, kind in now:
                found[kind] = side.receive(timeout_s=self.timeout_s)
        first = next(iter(found.values()))["losses"][1]
        for kind, told in found.items():
            if not abs(told["losses"][1] - first) <= 10 * TOLERANCES[self.case.precision][0] * abs(first):
                raise WorkerError(f"after one update the loss of {kind} is {told['losses'][1]}, expected {first}")
        return found

    def time(self, kinds: Sequence[str], *, num_repeats: int, turn_s: float, pause_s: float) -> dict[str, list[float]]:
        """Milliseconds a step in each turn, by kind; a turn is as many steps as make `turn_s`, at least 2."""
        num_steps = {}
        for kind in kinds:
            once = self._side(kind).ask("run", kind=kind, num_steps=1, timeout_s=self.timeout_s)
            num_steps[kind] = max(2, round(turn_s / once))

        def measure(kind: str) -> float:
            asked = num_steps[kind]
            seconds = self._side(kind).ask("run", kind=kind, num_steps=asked, timeout_s=self.timeout_s)
            return round(1e3 * float(seconds) / asked, 4)

        measures = {kind: lambda kind=kind: measure(kind) for kind in kinds}
        return alternate(measures, num_repeats=num_repeats, pause_s=pause_s)

    def _side(self, kind: str) -> Worker:
        if not kind.startswith("torch"):
            return self.ours
        assert self.peer
        return self.peer

    def _check(self, made: Mapping[str, Any]) -> dict[str, float]:
        apart = {name: abs(made["ours"][name] / made["theirs"][name] - 1) for name in ("loss", "grad_norm")}
        limits = dict(zip(apart, TOLERANCES[self.case.precision], strict=True))
        if "gradients_apart" in made:
            apart["gradients"], limits["gradients"] = made["gradients_apart"]["all"], limits["grad_norm"]
        for name, value in apart.items():
            if not value <= limits[name]:
                raise WorkerError(f"not the same training: {name} apart by {value:.2e}, expected {limits[name]:.0e}")
        return apart


def rates_over(times: Mapping[str, Sequence[float]], *, ours: str = "ours") -> dict[str, list[float]]:
    """Our step rate over that of each other kind, for each repeat."""
    return {kind: compare(values, times[ours]) for kind, values in times.items() if kind != ours}
