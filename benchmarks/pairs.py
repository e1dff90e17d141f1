"""Two processes that train the same network, ours and the peer's: equal at the start, then timed in turns."""

import dataclasses
import itertools
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

from mlvlab_jax.malloc import with_tunables

HERE = Path(__file__).parent
#: What can be timed, by label: how it is asked for. Labels of the peer begin with "torch".
REQUESTS: dict[str, dict[str, object]] = {
    "ours": {"kind": "ours", "changes": {}},
    "bare": {"kind": "bare", "changes": {}},
    "xla_attention": {"kind": "ours", "changes": {"attention": "xla"}},
    "grouped": {"kind": "ours", "changes": {"depthwise": "grouped"}},
    "shifted": {"kind": "ours", "changes": {"depthwise": "shifted"}},
    "scan": {"kind": "ours", "changes": {"scan_layers": True}},
    "torch_eager": {"kind": "torch_eager"},
    "torch_compile": {"kind": "torch_compile"},
}
#: Its weights lie in other trees and are others, and so are its losses.
OTHER_WEIGHTS = ("scan",)
#: Largest relative difference of the losses and of the gradients, by precision.
TOLERANCES = {"float32": (1e-4, 1e-4), "bfloat16": (1e-2, 1e-1)}


def start_jax(environment: Mapping[str, str] | None = None) -> Worker:
    """Our side, with this interpreter and the settings of malloc that training has."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    merged = {**os.environ, "PYTHONPATH": paths, **(environment or {})}
    return Worker([sys.executable, str(HERE / "jax_steps.py")], environment=with_tunables(merged) or merged)


def start_torch(python: str, *, tuned: bool = False) -> Worker:
    """The peer, as it comes, or with the settings of malloc that ours has."""
    environment = with_tunables(os.environ) if tuned else None
    return Worker([python, str(HERE / "torch_steps.py")], environment=environment or os.environ)


@dataclasses.dataclass
class Pair:
    """A case made on both sides. `peer` is None where there is only ours."""

    case: Case
    ours: Worker
    peer: Worker | None
    timeout_s: float
    _theirs: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def make(self, *, check: bool) -> dict[str, Any]:
        """Makes the case on both sides with the same weights and batch.

        Args:
            check: Compare loss and gradient now, tensor by tensor, which compiles one more program; without it
                `prepare` compares the loss and the gradient's norm.

        Raises:
            WorkerError: They differ by more than rounding.
        """
        tree = dataclasses.asdict(self.case)
        if self.peer is None:
            return self.ours.ask("make", case=tree, weights=None, timeout_s=self.timeout_s)
        with tempfile.TemporaryDirectory() as folder:
            weights, paths = f"{folder}/weights.npz", [f"{folder}/{name}.npz" for name in ("ours", "theirs")]
            made = self.ours.ask("make", case=tree, weights=weights, timeout_s=self.timeout_s)
            made |= self.peer.ask("make", case=tree, weights=weights, timeout_s=self.timeout_s)
            gradients = paths[1] if check else None
            made["theirs"] = self._theirs = self.peer.ask("check", gradients=gradients, timeout_s=self.timeout_s)
            if check:
                made["ours"] = self.ours.ask("check", gradients=paths[0], timeout_s=self.timeout_s)
                made["gradients_apart"] = measure_difference(*(dict(np.load(path)) for path in paths))
                made["apart"] = self._check(made["ours"], gradients=made["gradients_apart"]["all"])
        return made

    def prepare(self, kinds: Sequence[str], *, together: bool) -> dict[str, Any]:
        """Compiles; of each kind the seconds of it and the loss before the first two updates.

        Args:
            kinds: Keys of `REQUESTS`, the first the one that the others must agree with.
            together: Both sides compile at the same time, which is quicker, but the seconds are worth less.

        Raises:
            WorkerError: A side failed, or the losses or the norms of the gradient differ by more than rounding.
        """
        ours, theirs = ([kind for kind in kinds if self._side(kind) is side] for side in (self.ours, self.peer))
        found: dict[str, Any] = {}
        turns = itertools.zip_longest(ours, theirs) if together else ((kind,) for kind in kinds)
        for turn in turns:
            asked = [kind for kind in turn if kind]
            for kind in asked:
                self._side(kind).send("prepare", label=kind, **REQUESTS[kind])
            for kind in asked:
                found[kind] = self._side(kind).receive(timeout_s=self.timeout_s)
        expected = found[kinds[0]]["updates"][1]["loss"]
        for kind in kinds:
            loss = found[kind]["updates"][1]["loss"]
            far = abs(loss - expected) > 10 * TOLERANCES[self.case.precision][0] * abs(expected)
            if kind not in OTHER_WEIGHTS and (far or loss != loss):
                raise WorkerError(f"after one update the loss of {kind} is {loss}, expected {expected}")
        if self._theirs:
            found["apart"] = self._check(found["ours"]["updates"][0])
        return found

    def time(self, kinds: Sequence[str], *, num_repeats: int, turn_s: float, pause_s: float) -> dict[str, list[float]]:
        """Milliseconds a step in each turn, by kind; a turn is as many steps as make `turn_s`, at least 2."""
        num_steps = {}
        for kind in kinds:
            once = self._side(kind).ask("run", label=kind, num_steps=1, timeout_s=self.timeout_s)
            num_steps[kind] = max(2, round(turn_s / once))

        def measure(kind: str) -> float:
            asked = num_steps[kind]
            seconds = self._side(kind).ask("run", label=kind, num_steps=asked, timeout_s=self.timeout_s)
            return round(1e3 * float(seconds) / asked, 4)

        measures = {kind: lambda kind=kind: measure(kind) for kind in kinds}
        return alternate(measures, num_repeats=num_repeats, pause_s=pause_s)

    def _side(self, kind: str) -> Worker:
        if not kind.startswith("torch"):
            return self.ours
        assert self.peer
        return self.peer

    def _check(self, ours: Mapping[str, float], *, gradients: float = 0.0) -> dict[str, float]:
        """How far apart loss, gradient's norm and gradient are, relatively."""
        apart = {name: abs(ours[name] / self._theirs[name] - 1) for name in ("loss", "grad_norm")}
        apart["gradients"] = gradients
        loss_limit, limit = TOLERANCES[self.case.precision]
        limit = self.case.gradient_limit or limit
        for name, value in apart.items():
            if not value <= (loss_limit if name == "loss" else limit):
                raise WorkerError(f"not the same training: {name} apart by {value:.2e}, expected {limit:.0e} at most")
        return apart


def rates_over(times: Mapping[str, Sequence[float]], *, ours: str = "ours") -> dict[str, list[float]]:
    """Our step rate over that of each other kind, for each repeat."""
    return {kind: compare(values, times[ours]) for kind, values in times.items() if kind != ours}
