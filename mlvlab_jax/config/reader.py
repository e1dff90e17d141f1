"""YAML text to plain values, each remembered with its file and line.

YAML 1.2 rules for scalars (1e-4 is a number, `on` is a word), duplicate keys refused, no tags that build objects.
"""

import dataclasses
import re
from pathlib import Path
from typing import Any

import yaml

from mlvlab_jax.errors import ConfigError

KeyPath = tuple[str | int, ...]
_MAX_VALUES = 10_000
_PLAIN_TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null"))


@dataclasses.dataclass
class Document:
    """A tree of plain values and, for each key path in it, where it was written ("file.yaml:12")."""

    tree: dict[str, Any]
    places: dict[KeyPath, str]


class _Loader(yaml.SafeLoader):
    """SafeLoader with the core schema of YAML 1.2."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - replaced, not mutated


for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("null", r"^(?:~|null|Null|NULL|)$", ("~", "n", "N", "")),
    ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+0123456789."),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


def parse_value(text: str) -> Any:
    """A YAML scalar or flow value, as on the right of an override `a.b=value`.

    Raises:
        ConfigError: Not YAML.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{text!r} is not a YAML value: {_problem(error)}") from None
    errors: list[str] = []
    value = None if node is None else _Builder("override", errors).build(node, ())
    if errors:
        raise ConfigError("\n".join(errors))
    return value


def read_yaml(path: Path) -> Document:
    """Reads one file.

    Raises:
        ConfigError: Missing, unreadable, not YAML, not a mapping, or with duplicate keys; all of those at once.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        reason = error.strerror or "cannot be read"
        raise ConfigError(f"{path}: {reason}; expected a YAML file; check the path") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text; save the file as UTF-8") from None
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: not YAML: {_problem(error)}") from None
    if node is None:
        return Document({}, {})
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path}:1: expected 'key: value' lines at the top level, found a list or a single value")
    errors: list[str] = []
    builder = _Builder(str(path), errors)
    tree = builder.build(node, ())
    if errors:
        raise ConfigError("\n".join(errors))
    return Document(tree, builder.places)


def _problem(error: yaml.YAMLError) -> str:
    text = getattr(error, "problem", None) or str(error).splitlines()[0]
    if "\\t" in text:
        text += "; indent with spaces, not tabs"
    return str(text)


class _Builder:
    """Turns YAML nodes into values, noting places and gathering errors."""

    def __init__(self, file: str, errors: list[str]) -> None:
        self.places: dict[KeyPath, str] = {}
        self._file = file
        self._errors = errors
        self._loader = _Loader("")
        self._num_values = 0

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        place = f"{self._file}:{node.start_mark.line + 1}"
        self.places[path] = place
        self._num_values += 1
        if self._num_values > _MAX_VALUES:
            if self._num_values == _MAX_VALUES + 1:
                self._errors.append(f"{place}: more than {_MAX_VALUES} values; write out the aliases that multiply")
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(child, (*path, i)) for i, child in enumerate(node.value)]
        return self._scalar(node, place)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, child in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            if key in lines:
                self._errors.append(
                    f"{self._file}:{line}: {dotted((*path, key))}: key is already on line {lines[key]}; keep one"
                )
                continue
            lines[key] = line
            values[key] = self.build(child, (*path, key))
            self.places[(*path, key)] = f"{self._file}:{line}"
        return values

    def _scalar(self, node: yaml.Node, place: str) -> Any:
        try:
            if node.tag in _PLAIN_TAGS:
                return self._loader.construct_object(node)
            raise ValueError(node.tag)
        except (yaml.YAMLError, ValueError):
            self._errors.append(
                f"{place}: {node.tag} {node.value!r} is not a plain value; write text, a number or a list"
            )
            return None


def dotted(path: KeyPath) -> str:
    """('tracking', 'trackers', 0, 'name') -> 'tracking.trackers[0].name'."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
