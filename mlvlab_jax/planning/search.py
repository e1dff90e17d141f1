"""Other ways to lay out the same run: what would make it fit, and which is the fastest. Each is compiled."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mlvlab_jax.config.load import make_override, override_config
from mlvlab_jax.config.schema import Config
from mlvlab_jax.errors import ConfigError
from mlvlab_jax.planning.plan import Plan

#: Programs compiled at most, each of them seconds to minutes.
MAX_CANDIDATES = 12

#: Ways to need less memory for activations, the mildest first.
_SAVINGS: tuple[dict[str, Any], ...] = (
    {"training.remat": "dots"},
    {"training.accumulation_steps": 2},
    {"training.accumulation_steps": 4},
    {"training.remat": "full"},
    {"training.accumulation_steps": 8},
)

Changes = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Fields of the configuration that differ, by dotted path, and the plan with them."""

    changes: Changes
    plan: Plan

    def to_tree(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"changes": dict(self.changes), **self.plan.to_tree()}


def describe_changes(changes: Changes) -> str:
    """As they are written behind a command."""
    return " ".join(f"{path}={value}" for path, value in changes.items())


def change(config: Config, changes: Changes) -> Config:
    """`config` with some fields changed."""
    return override_config(config, [make_override(path, value, place="plan") for path, value in changes.items()])


def find_fit(plan: Plan, make: Callable[[Config], Plan]) -> Candidate | None:
    """The first change that makes a run fit which does not, mildest first; None where none of those tried does.

    First what leaves the result as it is (more of fsdp, recomputing, smaller pieces), one by one and together; then
    bfloat16, alone and with them.

    Args:
        plan: Of the run as configured.
        make: Compiles another configuration.
    """
    exact = [{"mesh.data": 1, "mesh.fsdp": plan.num_devices // plan.step.mesh["tensor"]}, *_SAVINGS]
    rounded = {"training.precision": "bfloat16"}
    together = {path: value for each in exact for path, value in each.items()}
    for changes in (*exact, together, rounded, together | rounded):
        candidate = _try(plan.config, changes, make)
        if candidate is not None and candidate.plan.fits:
            return candidate
    return None


def search(plan: Plan, make: Callable[[Config], Plan]) -> list[Candidate]:
    """Plans of some meshes, each with the mildest saving of memory that makes it fit; best first.

    A saving (recomputing, smaller pieces) costs time, so no more of it is tried than is needed.

    Args:
        plan: Of the run as configured; it is one of those returned.
        make: Compiles another configuration.
    """
    candidates: list[Candidate] = []
    own, *_ = meshes = list(_list_meshes(plan))
    for mesh in meshes:
        for saving in ({}, *_SAVINGS):
            changes = mesh | saving
            candidate = Candidate({}, plan) if changes == own else _try(plan.config, changes, make)
            if candidate is not None:
                candidates.append(candidate)
            if len(candidates) == MAX_CANDIDATES:
                return sorted(candidates, key=_rank)
            if candidate is not None and candidate.plan.fits is not False:
                break
    return sorted(candidates, key=_rank)


def _try(config: Config, changes: Changes, make: Callable[[Config], Plan]) -> Candidate | None:
    """None where nothing changes, or the configuration cannot be: a batch that does not divide, batch statistics."""
    try:
        changed = change(config, changes)
        return None if changed == config else Candidate(changes, make(changed))
    except ConfigError:
        return None


def _list_meshes(plan: Plan) -> Iterator[dict[str, Any]]:
    """The run's own, then all over data, all over fsdp, the most even product of both, and two over tensor."""
    num, own = plan.num_devices, (plan.step.mesh["data"], plan.step.mesh["fsdp"], plan.step.mesh["tensor"])
    even = max(way for way in range(1, math.isqrt(num) + 1) if num % way == 0)
    meshes = [own, (num, 1, 1), (1, num, 1), (num // even, even, 1)]
    if num % 2 == 0:
        meshes.append((num // 2, 1, 2))
    for data, fsdp, tensor in dict.fromkeys(meshes):
        yield {"mesh.data": data, "mesh.fsdp": fsdp, "mesh.tensor": tensor}


def _rank(candidate: Candidate) -> tuple[Any, ...]:
    """What fits before what does not; then by time; where no time is known by what is sent, then by memory."""
    plan = candidate.plan
    traffic = plan.step.traffic
    sent = sum(c.sent_bytes for c in traffic.collectives) if traffic else math.inf
    return (plan.fits is False, plan.roofline.step_s if plan.roofline else math.inf, sent, plan.step.needed_bytes)
