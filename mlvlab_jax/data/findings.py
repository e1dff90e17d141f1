"""What was found wrong with data: findings, the report they make, and the list of examples to leave out."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from mlvlab_jax.data.quarantine import BadExample
from mlvlab_jax.data.scan import Scan

Severity = Literal["error", "warning"]
#: Version of the format of validation_report.json; a field may be added without a new one.
REPORT_VERSION = 1
_MAX_SHOWN = 12


class Kind(NamedTuple):
    """A kind of finding; `leave_out` puts its examples on the quarantine list."""

    severity: Severity
    leave_out: bool


#: All there is to find.
KINDS = {
    "unreadable": Kind("error", leave_out=True),
    "label out of range": Kind("error", leave_out=True),
    "conflicting labels": Kind("error", leave_out=True),
    "leak": Kind("error", leave_out=True),
    "validator": Kind("error", leave_out=True),
    "validator batch": Kind("error", leave_out=False),
    "empty class": Kind("error", leave_out=False),
    "absent class": Kind("warning", leave_out=False),
    "class imbalance": Kind("warning", leave_out=False),
    "duplicate": Kind("warning", leave_out=False),
    "near duplicate": Kind("warning", leave_out=False),
    "near leak": Kind("warning", leave_out=False),
    "statistics": Kind("warning", leave_out=False),
    "wrong extension": Kind("warning", leave_out=False),
    "tiny": Kind("warning", leave_out=False),
    "odd shape": Kind("warning", leave_out=False),
    "size outlier": Kind("warning", leave_out=False),
    "blank": Kind("warning", leave_out=False),
}


@dataclasses.dataclass(frozen=True)
class FoundExample:
    """One example of a finding: its index in the split, its name, and what is wrong with it."""

    example_id: int
    name: str
    detail: str


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing wrong with one split.

    kind: one of `KINDS`; count: examples it concerns (classes, where it is about classes); message: one
    line for a person; ids: index of every example it concerns; examples: the first 12 of them.
    """

    kind: str
    severity: Severity
    split: str
    count: int
    message: str
    ids: tuple[int, ...] = ()
    examples: tuple[FoundExample, ...] = ()


@dataclasses.dataclass(frozen=True)
class SplitSummary:
    """One split in numbers; unreadable examples count in num_examples and num_unreadable alone.

    class_counts: examples of each class; mean, std: of each channel, pixels scaled to [0, 1]; brightness: examples in
    32 equal steps of their mean value; sides: (mean in pixels, examples) of the square root of the area, in steps of
    half a power of two.
    """

    name: str
    num_examples: int
    num_unreadable: int
    class_counts: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    brightness: tuple[int, ...]
    sides: tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class ValidationReport:
    """All that `mlvlab validate` found. duplicates_by: what makes two images identical."""

    source: str
    class_names: tuple[str, ...]
    image: tuple[int, int, int]
    identity: Mapping[str, str]
    splits: tuple[SplitSummary, ...]
    findings: tuple[Finding, ...]
    seconds: float
    duplicates_by: str = "digest of the decoded pixels, at the size that training reads them"
    version: int = REPORT_VERSION

    @property
    def num_errors(self) -> int:
        """Findings of severity error."""
        return sum(finding.severity == "error" for finding in self.findings)

    def to_json(self) -> str:
        """As `read_report` reads it."""
        return json.dumps(dataclasses.asdict(self), indent=1, allow_nan=False)


def read_report(path: Path) -> ValidationReport:
    """The report that `ValidationReport.to_json` wrote; lists are tuples again."""
    tree: dict[str, Any] = json.loads(path.read_text())
    findings = tuple(
        Finding(**f | {"ids": tuple(f["ids"]), "examples": tuple(FoundExample(**e) for e in f["examples"])})
        for f in tree["findings"]
    )
    splits = tuple(SplitSummary(**{key: _tuples(value) for key, value in s.items()}) for s in tree["splits"])
    plain = {key: _tuples(value) for key, value in tree.items()}
    return ValidationReport(**plain | {"findings": findings, "splits": splits})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def short_name(name: str) -> str:
    """The last two parts of a path: a class and a file."""
    return "/".join(name.split("/")[-2:])


class Collector:
    """Gathers findings, and the examples to leave out."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self._bad: dict[tuple[str, int], BadExample] = {}

    def add(
        self,
        kind: str,
        scan: Scan,
        message: str,
        *,
        ids: Iterable[int] = (),
        detail: Callable[[int], str] = lambda index: "",
        count: int | None = None,
    ) -> None:
        """Notes a finding, unless it concerns nothing.

        Args:
            kind: One of `KINDS`.
            scan: Of the split it is about.
            message: As of `Finding`.
            ids: As of `Finding`.
            detail: Index -> what is wrong with that example.
            count: As of `Finding`, where it is not the number of ids.
        """
        found = np.sort(np.fromiter(ids, np.int64)).tolist()
        count = len(found) if count is None else count
        if count == 0:
            return
        severity, leave_out = KINDS[kind]
        name = scan.stored.name
        examples = tuple(FoundExample(index, name(index), detail(index)) for index in found[:_MAX_SHOWN])
        self.findings.append(Finding(kind, severity, scan.name, count, message, tuple(found), examples))
        for index in found if leave_out else ():
            example = BadExample(scan.name, index, name(index), f"{kind}: {detail(index)}")
            self._bad.setdefault((scan.name, index), example)

    def bad_examples(self, order: Sequence[str]) -> list[BadExample]:
        """Examples to leave out, each once with the first reason, by split in `order` and index."""
        return sorted(self._bad.values(), key=lambda example: (order.index(example.split), example.example_id))
