"""What one step reads from and writes to a device's main memory, read from the compiled program."""

from mlvlab_jax.planning.arrays import ArrayType, read_types
from mlvlab_jax.planning.program import Instruction, Program

#: They move nothing themselves.
_FREE = frozenset(
    ("tuple", "get-tuple-element", "bitcast", "parameter", "constant", "while", "conditional", "call", "partition-id")
)


def count_traffic(program: Program) -> float:
    """Bytes between main memory and the chip in one execution, loops counted as often as they turn.

    Each instruction reads its operands and writes its result; what happens inside a fusion stays on the chip, as does
    what the program keeps there. A compiler that writes no memory spaces (those of CPU and GPU) counts caches as
    main memory.

    Args:
        program: The program of one device.
    """
    return _total(program.entry, program)


def _total(name: str, program: Program) -> float:
    types = {instruction.name: instruction.result for instruction in program.computations[name]}
    total = 0.0
    for instruction in program.computations[name]:
        if instruction.opcode in ("while", "conditional", "call"):
            turns = program.count_turns(instruction)
            total += turns * sum(_total(callee, program) for callee in program.callees(instruction))
        elif instruction.opcode not in _FREE and not instruction.opcode.endswith(("-done", "-update")):
            total += _count(instruction, types)
    return total


def _count(instruction: Instruction, types: dict[str, str]) -> float:
    result = list(read_types(instruction.result))
    if instruction.opcode in ("copy-start", "slice-start"):
        # Between the two memories; only what is moved counts, at each end that is in main memory.
        large = [array for array in result if array.bytes > 8]
        moved = min(array.stored_bytes for array in large) if large else 0.0
        return sum(moved for array in large if not array.on_chip)
    operands = [array for name in instruction.operands for array in read_types(types.get(name, ""))]
    return _sum_main(result) + _sum_main(operands)


def _sum_main(arrays: list[ArrayType]) -> float:
    return sum(array.stored_bytes for array in arrays if not array.on_chip)
