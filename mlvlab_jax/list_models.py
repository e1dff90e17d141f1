"""`mlvlab models [NAME]`: which models there are, how large they are, and what can be said of one."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlvlab_jax.cli import run_command

if TYPE_CHECKING:
    from mlvlab_jax.plugins import Spec

#: Of a checkout; an installed package comes without.
CONFIGS = Path(__file__).parents[1] / "configs"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="mlvlab models", description=__doc__)
    parser.add_argument("name", nargs="?", metavar="NAME", help="a model, to see its parameters (default: list all)")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parsed = parser.parse_args(arguments)
    return run_command(lambda: _show(parsed.name, as_json=parsed.json))


def _show(name: str | None, *, as_json: bool) -> int:
    from mlvlab_jax.plugins import MODELS

    names = MODELS.names() if name is None else [MODELS.entry(name).name]
    recipes = _find_recipes()
    rows = [row for each in names for row in _list_variants(each, recipes)]
    fields = None if name is None else _list_fields(name)
    if as_json:
        print(json.dumps({"models": rows} | ({} if fields is None else {"params": fields})))
        return 0
    _print(rows, fields)
    return 0


def _list_variants(name: str, recipes: "dict[str, Spec]") -> list[dict[str, Any]]:
    """A row for each published form of a model, or one without figures; each with its first recipe, None without."""
    from mlvlab_jax.config.fields import dump_params
    from mlvlab_jax.plugins import MODELS

    entry = MODELS.entry(name)
    own = {path: dump_params(spec.params) for path, spec in recipes.items() if spec.name == name}
    if not entry.variants:
        return [{"model": name, "variant": None, "recipe": next(iter(own), None)}]
    recipe_of: dict[str, str] = {}
    for path, params in own.items():
        fitting = [variant for variant, of in entry.variants.items() if _is_variant(params, of.params, entry.params)]
        if fitting:
            recipe_of.setdefault(max(fitting, key=lambda variant: len(entry.variants[variant].params)), path)
    return [
        {
            "model": name,
            "variant": variant,
            "params": of.params,
            "num_params": of.num_params,
            "gflops": of.gflops,
            "image_side_px": of.side,
            "recipe": recipe_of.get(variant),
        }
        for variant, of in entry.variants.items()
    ]


def _is_variant(params: dict[str, Any], named: dict[str, Any], cls: type) -> bool:
    """Whether a recipe's parameters have all that names a variant, and no size of their own."""
    from mlvlab_jax.config.fields import dump_params, params_from

    resolved = dump_params(params_from(cls, named))
    sizes = [key for key, value in resolved.items() if value is None]
    return all(params[key] == resolved[key] for key in (*named, *sizes))


def _find_recipes() -> "dict[str, Spec]":
    """The model of each shipped configuration, by its name; none where they are not installed."""
    from mlvlab_jax.config.load import load_config

    return {path.name: load_config([path]).config.model for path in sorted(CONFIGS.glob("*.yaml"))}


def _list_fields(name: str) -> list[dict[str, Any]]:
    """Of each parameter of a model: its name, what it may be, its default and what it means."""
    from pydantic import TypeAdapter

    from mlvlab_jax.config.fields import dump_params
    from mlvlab_jax.plugins import MODELS

    params = MODELS.entry(name).params
    schema, defaults = TypeAdapter(params).json_schema()["properties"], dump_params(params())
    return [
        {
            "name": field.name,
            "values": _describe_values(schema[field.name]),
            "default": defaults[field.name],
            "meaning": " ".join(schema[field.name]["description"].split()),
        }
        for field in dataclasses.fields(params)
    ]


def _describe_values(schema: dict[str, Any]) -> str:
    """What a JSON schema allows, in a few words."""
    if "anyOf" in schema:
        return " | ".join(_describe_values(each) for each in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        return " | ".join(map(str, schema.get("enum", [schema.get("const")])))
    words = {"integer": "whole number", "number": "number", "boolean": "true | false", "string": "text"}
    if schema["type"] == "array":
        return f"list of {_describe_values(schema['items'])}"
    bounds = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
    limits = [f" {sign} {schema[key]:g}" for key, sign in bounds.items() if key in schema]
    return words.get(schema["type"], schema["type"]) + ",".join(limits)


def _print(rows: list[dict[str, Any]], fields: list[dict[str, Any]] | None) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    console = Console(highlight=False)
    right = [Column(title, justify="right", no_wrap=True) for title in ("parameters", "GFLOP", "image")]
    last = Column("recipe" if fields is None else "model.params", overflow="fold", min_width=26)
    table = Table(Column("model", no_wrap=True), Column("variant", no_wrap=True), *right, last, box=None)
    for row in rows:
        size = ["-"] * 3
        if row["variant"]:
            size = [f"{row['num_params']:,}", f"{row['gflops']:,.2f}", str(row["image_side_px"])]
        settings = ", ".join(f"{key}: {value}" for key, value in row.get("params", {}).items())
        shown = row["recipe"] if fields is None else settings
        table.add_row(row["model"], row["variant"] or "-", *size, shown or "-")
    console.print(table)
    told = "RGB images, 1,000 classes; GFLOP of a forward pass, a multiply-add is two; recipes lie in configs/"
    console.print(told, style="dim")
    if fields is None:
        return
    described = Table("model.params", "default", "meaning", box=None)
    for field in fields:
        default = json.dumps(field["default"]).strip('"')
        described.add_row(field["name"], default, escape(f"{field['meaning']} ({field['values']})"))
    console.print(described)


if __name__ == "__main__":
    sys.exit(main())
