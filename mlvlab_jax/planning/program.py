"""The text of a compiled program (optimised HLO): its computations, their instructions, and how often each runs."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z0-9\-]*)\((.*)$")
_KNOWN_TURNS = re.compile(r"known_trip_count\W+n\W+(\d+)")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLS = re.compile(
    r"(?:calls|body|to_apply|called_computations|branch_computations|\w+_computation)=\{?(%[\w.\-]+"
    r"(?:, ?%[\w.\-]+)*)"
)


class Instruction(NamedTuple):
    """name = result opcode(operands), attributes."""

    name: str
    result: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    is_root: bool


class Program:
    """A program's computations.

    Args:
        text: `Compiled.as_text()`.
    """

    def __init__(self, text: str) -> None:
        self.entry = ""
        self.computations: dict[str, list[Instruction]] = defaultdict(list)
        current = ""
        for line in text.splitlines():
            header = _HEADER.match(line)
            if header:
                current = header[2]
                self.entry = current if header[1] else self.entry
            elif found := _INSTRUCTION.match(line):
                operands, _, attributes = found[5].partition(")")
                names = tuple(_NAME.findall(operands))
                # A constant has its value where others have operands.
                attributes = operands if found[4] == "constant" else attributes
                instruction = Instruction(found[2], found[3], found[4], names, attributes, bool(found[1]))
                self.computations[current].append(instruction)

    def callees(self, instruction: Instruction) -> Iterator[str]:
        """Computations an instruction runs, the condition of a loop left out."""
        if not instruction.opcode.endswith(("-done", "-update")):
            for names in _CALLS.findall(instruction.attributes):
                yield from (name for name in _NAME.findall(names) if name in self.computations)

    def count_turns(self, instruction: Instruction) -> int:
        """How often an instruction runs what it calls: 1, but for a loop whose counter runs from 0 to a constant."""
        if instruction.opcode != "while":
            return 1
        if known := _KNOWN_TURNS.search(instruction.attributes):
            return int(known[1])
        condition, body = (re.search(rf"{word}=%([\w.\-]+)", instruction.attributes) for word in ("condition", "body"))
        if condition is None or body is None:
            return 1
        return self._count_by_counter(condition[1], body[1]) or 1

    def _count_by_counter(self, condition: str, body: str) -> int | None:
        """Turns of `while (counter < limit) counter += step`; None where the loop is not of that form."""
        tests = _by_name(self.computations[condition])
        compare = next((test for test in tests.values() if test.is_root and test.opcode == "compare"), None)
        if compare is None or "direction=LT" not in compare.attributes:
            return None
        counter, limit = (tests[name] for name in compare.operands)
        position = re.search(r"index=(\d+)", counter.attributes)
        steps = _by_name(self.computations[body])
        root = next((step for step in steps.values() if step.is_root and step.opcode == "tuple"), None)
        if limit.opcode != "constant" or position is None or root is None:
            return None
        moved = steps[root.operands[int(position[1])]]
        sizes = [steps[name].attributes for name in moved.operands if steps[name].opcode == "constant"]
        if moved.opcode != "add" or not sizes or not sizes[0].isdecimal():
            return None
        return -(-int(limit.attributes) // int(sizes[0]))


def _by_name(instructions: list[Instruction]) -> Mapping[str, Instruction]:
    return {instruction.name: instruction for instruction in instructions}
