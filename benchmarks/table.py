"""README's table of benchmarks from benchmarks/results: prints it; --write puts it between README's two markers."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from questions import RESULTS, Answer, read_answers

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- benchmarks: written by benchmarks/table.py -->", "<!-- end of benchmarks -->"
_MARKS = {"goal": "goal reached", "floor": "floor reached", "missed": "**missed**", "": ""}


def render_table(answers: Sequence[Answer]) -> str:
    """Markdown, between the markers and with them."""
    lines = ["| question | against | median | floor | goal | | measured |", "|---|---|---|---|---|---|---|"]
    for answer in answers:
        question = answer.question
        sign = "≤ " if question.lower else "≥ "
        limits = ["" if limit is None else f"{sign}{limit:g}" for limit in (question.floor, question.goal)]
        cells = [question.text, question.against, _render_value(answer), *limits, _MARKS[answer.verdict]]
        lines.append(f"| {' | '.join([*cells, f'{answer.date}, {answer.machine}'])} |")
    return "\n".join([BEGIN, *lines, END])


def _render_value(answer: Answer) -> str:
    unit = f" {answer.question.unit}" if answer.question.unit else ""
    if answer.spread is None:
        return f"{answer.value:.3g}{unit}"
    low, high = answer.spread
    return f"{answer.value:.3g}{unit} ({low:.3g} to {high:.3g})"


def replace_table(readme: str, table: str) -> str:
    """README with `table` in place of the one it has.

    Raises:
        ValueError: README has not both markers.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{README}: expected the lines {BEGIN!r} and {END!r} around the table")
    return before + table + after


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="into README.md")
    write = parser.parse_args(arguments).write
    table = render_table(read_answers(RESULTS))
    if write:
        README.write_text(replace_table(README.read_text(), table))
    else:
        print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
