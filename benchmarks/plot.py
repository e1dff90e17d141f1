"""Draws all results as one page, benchmarks/results/index.html: each repeat a dot, the median a line, floor and goal.

Every question has an axis of its own, from zero, so that a length is a number; nothing on the page is loaded.
"""

import argparse
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path

from questions import RESULTS, Answer, read_answers

_WIDTH, _HEIGHT, _MIDDLE = 420, 34, 14
_INKS = {"goal": "#1b7f4d", "floor": "#2b6cb0", "missed": "#c0392b", "": "#64707d"}
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 74rem; margin: 2rem auto; padding: 0 1rem; color: #1c2530 }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; padding: .25rem .8rem .25rem 0 }
td { border-top: 1px solid #dde3e9 } .n { text-align: right; white-space: nowrap } .quiet, th { color: #64707d }

.quiet { font-size: .85rem }
svg { display: block; width: 420px; max-width: 100% } text { font-size: 9px; fill: #64707d }
@media (prefers-color-scheme: dark) { body { background: #12161b; color: #e6ebf0 } td { border-color: #2b333c } }
"""


def draw_answer(answer: Answer) -> str:
    """One strip: an axis from zero to a little beyond the largest number on it."""
    question = answer.question
    limits = {"floor": question.floor, "goal": question.goal}
    shown = [answer.value, *answer.repeats, *(limit for limit in limits.values() if limit is not None)]
    scale = (_WIDTH - 20) / (1.08 * max(shown)) if max(shown) > 0 else 1.0
    ink = _INKS[answer.verdict]
    marks = "".join(
        _draw_limit(f"{10 + limit * scale:.1f}", name) for name, limit in limits.items() if limit is not None
    )
    dots = "".join(
        f'<circle cx="{10 + value * scale:.1f}" cy="{_MIDDLE}" r="3.2" fill="{ink}" fill-opacity=".35">'
        f"<title>{value:.4g}</title></circle>"
        for value in answer.repeats
    )
    x = f"{10 + answer.value * scale:.1f}"
    median = f'<line x1="{x}" x2="{x}" y1="{_MIDDLE - 8}" y2="{_MIDDLE + 8}" stroke="{ink}" stroke-width="2.5"/>'
    axis = f'<line x1="10" x2="{_WIDTH - 10}" y1="{_MIDDLE}" y2="{_MIDDLE}" stroke="#c4ccd4"/>'
    label = escape(f"{question.text}: {answer.value:.4g} {question.unit}")
    svg = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">'
    return f"{svg}{axis}{marks}{dots}{median}</svg>"


def _draw_limit(x: str, name: str) -> str:
    line = f'<line x1="{x}" x2="{x}" y1="3" y2="{_MIDDLE + 9}" stroke="#8a96a3" stroke-dasharray="3 2"/>'
    return f'{line}<text x="{x}" y="{_HEIGHT - 2}" text-anchor="middle">{name}</text>'


def render_page(answers: Sequence[Answer]) -> str:
    """The page as HTML."""
    rows = []
    for answer in answers:
        question = answer.question
        against = f' <span class="quiet">against {escape(question.against)}</span>' if question.against else ""
        better = "lower is better" if question.lower else "higher is better"
        place = escape(f"{answer.date}, {answer.machine}; {question.file}.json")
        rows.append(
            f'<tr><td>{escape(question.text)}{against}<br><span class="quiet">{better}; {place}</span></td>'
            f'<td class="n" style="color:{_INKS[answer.verdict]}">{answer.value:.4g} {escape(question.unit)}<br>'
            f"{answer.verdict or '&nbsp;'}</td><td>{draw_answer(answer)}</td></tr>"
        )
    head = '<tr><th>question</th><th class="n">median</th><th>repeats</th></tr>'
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Benchmarks</title>'
        f"<style>{_STYLE}</style><h1>Benchmarks</h1><table>{head}{''.join(rows)}</table></html>\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS / "index.html", help="file to write")
    out = parser.parse_args(arguments).out
    out.write_text(render_page(read_answers(RESULTS)))
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
