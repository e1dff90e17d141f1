"""What the devices send each other in one step, read from the compiled program."""

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping

from mlvlab_jax.planning.arrays import read_types
from mlvlab_jax.planning.program import Instruction, Program

#: Operation -> how often (n - 1) / n of its whole array leaves each of n devices laid out as a ring.
_ROUNDS = {
    "all-reduce": 2.0,
    "all-gather": 1.0,
    "reduce-scatter": 1.0,
    "all-to-all": 1.0,
    "ragged-all-to-all": 1.0,
    "collective-broadcast": 1.0,
}
_PERMUTE = "collective-permute"
_GROUPS = re.compile(r"replica_groups=(?:\{\{([\d,]+)\}|\[\d+,(\d+)\])")
#: Loops of a product whose operand or result goes round the ring piece by piece.
_RINGS = {"windowed_dot_general_body_rs": "reduce-scatter", "windowed_dot_general_body_ag": "all-gather"}

Totals = Mapping[str, tuple[float, float, float]]


@dataclasses.dataclass(frozen=True)
class Collective:
    """One kind of exchange in one step.

    count: how often it is done. array_bytes: of the whole arrays that are reduced, gathered or moved.
    sent_bytes: what leaves each device for it, by the ring algorithm.
    """

    kind: str
    count: int
    array_bytes: float
    sent_bytes: float


def count_collectives(program: Program, *, num_devices: int) -> tuple[Collective, ...]:
    """Collectives of one execution of a compiled program, loops counted as often as they turn.

    Args:
        program: The program of one device.
        num_devices: Devices in a group where the program names none.

    Returns:
        One entry for each kind there is, by name.

    References:
        P. Patarasuk, X. Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", 2009.
    """
    totals = _total(program.entry, program, {}, num_devices)
    return tuple(Collective(kind, int(count), *sizes) for kind, (count, *sizes) in sorted(totals.items()))


def _total(name: str, program: Program, known: dict[str, Totals], num_devices: int) -> Totals:
    """Kind -> (count, array bytes, sent bytes) of one call of a computation."""
    if name not in known:
        totals: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
        for instruction in program.computations[name]:
            for kind, sums in _measure(instruction, name, program, known, num_devices):
                totals[kind] = [old + new for old, new in zip(totals[kind], sums, strict=True)]
        known[name] = {kind: (sums[0], sums[1], sums[2]) for kind, sums in totals.items()}
    return known[name]


def _measure(
    instruction: Instruction, computation: str, program: Program, known: dict[str, Totals], num_devices: int
) -> Iterator[tuple[str, tuple[float, float, float]]]:
    """What an instruction sends itself, and what the computations do that it runs."""
    own = _measure_own(instruction, computation, num_devices)
    if own is not None:
        yield own
    if not _goes_on(instruction):
        turns = program.count_turns(instruction)
        for callee in program.callees(instruction):
            ring = next((kind for name, kind in _RINGS.items() if name in callee), None)
            for kind, (count, *sizes) in _total(callee, program, known, num_devices).items():
                whole = ring is not None and kind == _PERMUTE
                sums = (1.0 if whole else turns * count, *(turns * size for size in sizes))
                yield (ring or kind) if whole else kind, (sums[0], sums[1], sums[2])


def _goes_on(instruction: Instruction) -> bool:
    """Whether it is a later part of an exchange that was counted where it was started."""
    return instruction.name.startswith("async-collective-done") or any(
        "async_collective_fusion" in word for word in instruction.attributes.split(", ") if word.startswith("calls=")
    )


def _measure_own(
    instruction: Instruction, computation: str, num_devices: int
) -> tuple[str, tuple[float, float, float]] | None:
    started = instruction.opcode.endswith("-start")
    kind = instruction.opcode.removesuffix("-start")
    if kind not in _ROUNDS and kind != _PERMUTE:
        return None
    result = sum(array.bytes for array in read_types(instruction.result))
    if kind == _PERMUTE:
        moved = result / 2 if started else result  # what is started names its operand beside its result
        return kind, (1.0, moved, moved)
    size = _count_group(instruction.attributes, num_devices)
    if started and kind != "all-reduce":
        result *= (size if kind == "all-gather" else 1) / (size + 1)
    array_bytes = result * size if kind == "reduce-scatter" else result
    if kind == "all-reduce" and computation.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"  # how the TPU compiler writes one: each device keeps its slice of the sum
    return kind, (1.0, array_bytes, _ROUNDS[kind] * (size - 1) / size * array_bytes)


def _count_group(attributes: str, num_devices: int) -> int:
    found = _GROUPS.search(attributes)
    if found is None:
        return num_devices
    return int(found[2]) if found[2] else found[1].count(",") + 1
