"""Pydantic's findings in words a person can act on: file:line, path, what was found, what was expected, a near name."""

import dataclasses
import re
import types
import typing
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from mlvlab_jax.config.fields import PluginField
from mlvlab_jax.config.reader import Document, KeyPath, dotted
from mlvlab_jax.plugins import did_you_mean

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dataclass_type": "a section (indented 'key: value' lines)",
    "dataclass_exact_type": "a section (indented 'key: value' lines)",
    "finite_number": "a finite number",
}


def describe(error: ValidationError, document: Document, *, root: type) -> str:
    """One line for each finding, in the order of the file; `root` is the configclass of the whole document."""
    found = [_line(detail, document, root) for detail in error.errors(include_url=False)]
    found.sort(key=_line_number)
    return "\n".join(dict.fromkeys(found))


def _line(detail: ErrorDetails, document: Document, root: type) -> str:
    path: KeyPath = detail["loc"]
    place = _place(path, document)
    prefix = f"{place}: " if place else ""
    return f"{prefix}{dotted(path) or 'configuration'}: {_text(detail, path, document, root)}"


def _line_number(text: str) -> int:
    found = re.match(r"[^ ]*:(\d+): ", text)
    return int(found[1]) if found else 0


def _place(path: KeyPath, document: Document) -> str:
    while path and path not in document.places:
        path = path[:-1]
    return document.places.get(path, "") if path else ""


def _text(detail: ErrorDetails, path: KeyPath, document: Document, root: type) -> str:
    kind, value = detail["type"], detail["input"]
    if kind == "unexpected_keyword_argument":
        known = _known_keys(path[:-1], document.tree, root)
        listed = ", ".join(known) or "nothing"
        return f"unknown key{did_you_mean(str(path[-1]), known) or f'; known here: {listed}'}"
    if kind in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return "is missing; add it"
    if kind in ("plugin", "plugin_name"):
        return detail["msg"]
    expected = _EXPECTED.get(kind) or detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if kind == "value_error":
        return expected
    if kind == "literal_error":
        return f"expected {expected}, found {value!r}{_near_choice(value, detail['ctx']['expected'])}"
    quoted = "; remove the quotes" if kind in ("float_type", "int_type") and _is_number(value) else ""
    return f"expected {expected}, found {value!r}{quoted}"


def _near_choice(value: Any, expected: str) -> str:
    """A hint at the nearest of the quoted words in `expected`, whatever their case."""
    choices = re.findall(r"'([^']*)'", expected)
    same = [choice for choice in choices if choice.casefold() == str(value).casefold()]
    return f"; did you mean {same[0]!r}?" if same else did_you_mean(str(value), choices)


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, str) and float(value) == float(value)
    except ValueError:
        return False


def _known_keys(path: KeyPath, tree: Any, root: type) -> list[str]:
    """Field names of the section at `path`, plugin parameters included."""
    hint: Any = root
    node = tree
    for part in path:
        table = next((m.table for m in getattr(hint, "__metadata__", ()) if isinstance(m, PluginField)), None)
        if table is not None and part == "params":
            hint = table.entry(node["name"]).params
        elif dataclasses.is_dataclass(hint):
            hint = typing.get_type_hints(hint, include_extras=True)[str(part)]
        else:
            hint = typing.get_args(hint)[1 if typing.get_origin(hint) is dict else 0]
        if typing.get_origin(hint) in (typing.Union, types.UnionType):
            hint = typing.get_args(hint)[0]  # a section that may be null
        node = node[part]
    return [field.name for field in dataclasses.fields(hint)]
