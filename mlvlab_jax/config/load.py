"""Files, `extends:` fragments and overrides to one validated `Config`; and back to YAML, a hash and a JSON schema."""

import dataclasses
import hashlib
import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from mlvlab_jax.config.messages import describe
from mlvlab_jax.config.reader import Document, KeyPath, dotted, parse_value, read_yaml
from mlvlab_jax.config.schema import Config
from mlvlab_jax.errors import ConfigError
from mlvlab_jax.plugins import Spec

C = TypeVar("C")
_ADAPTER = TypeAdapter(Config)


@dataclasses.dataclass(frozen=True)
class LoadedConfig:
    """A valid configuration, its short name, and where each value was written."""

    config: Config
    name: str
    places: dict[KeyPath, str]

    def locate(self, path: str) -> str:
        """'file.yaml:12' of a dotted path or of the nearest section above it; '' where nothing was written."""
        parts: KeyPath = tuple(path.split("."))
        while parts and parts not in self.places:
            parts = parts[:-1]
        return self.places.get(parts, "") if parts else ""


def load_config(paths: Sequence[Path], overrides: Sequence[str] = ()) -> LoadedConfig:
    """Merges files from left to right, then `a.b=value` overrides, and validates the result.

    Raises:
        ConfigError: Everything that is wrong with it, one line each, with file:line, path, value and expectation.
    """
    if not paths:
        raise ConfigError("no configuration: give --config FILE, for example --config configs/digits.yaml")
    merged = Document({}, {})
    for path in paths:
        _merge(merged, _with_fragments(path, seen=()))
    for override in overrides:
        _merge(merged, _parse_override(override))
    return LoadedConfig(_validate_config(merged), paths[-1].stem, merged.places)


def config_from_tree(tree: dict[str, Any]) -> Config:
    """The configuration that `to_tree` wrote.

    Raises:
        ConfigError: The tree is not one, for example because it was written by another version.
    """
    return _validate_config(Document(tree, {}))


def override_config(config: Config, layers: Sequence[Document]) -> Config:
    """`config` with `layers` laid over it, from left to right.

    Raises:
        ConfigError: The result is not valid; each line starts with the place that the layer names.
    """
    merged = Document(to_tree(config), {})
    for layer in layers:
        _merge(merged, layer)
    return _validate_config(merged)


def read_section(cls: type[C], path: Path | None, overrides: Sequence[str] = ()) -> tuple[C, Document]:
    """A file of another kind than a configuration, if there is one, with `a.b=value` overrides.

    Returns:
        Its configclass, and where its values were written.

    Raises:
        ConfigError: Everything that is wrong with it, as in `load_config`.
    """
    document = read_yaml(path) if path else Document({}, {})
    for override in overrides:
        _merge(document, _parse_override(override))
    return _validate(cls, TypeAdapter(cls), document), document


def _validate_config(document: Document) -> Config:
    _import_plugins(document)
    return _validate(Config, _ADAPTER, document)


def _validate(cls: type[C], adapter: TypeAdapter[C], document: Document) -> C:
    try:
        return adapter.validate_json(json.dumps(document.tree))
    except ValidationError as error:
        raise ConfigError(describe(error, document, root=cls)) from None


def _with_fragments(path: Path, *, seen: tuple[Path, ...]) -> Document:
    """The file at `path` laid over the fragments its `extends:` names, which are relative to it."""
    resolved = path.resolve()
    if resolved in seen:
        chain = " -> ".join(p.name for p in (*seen, resolved))
        raise ConfigError(f"{path}: extends itself ({chain}); remove one 'extends'")
    document = read_yaml(path)
    fragments = document.tree.pop("extends", [])
    if isinstance(fragments, str):
        fragments = [fragments]
    if not isinstance(fragments, list) or not all(isinstance(f, str) for f in fragments):
        place = document.places[("extends",)]
        raise ConfigError(f"{place}: extends: expected a file name or a list of them, found {fragments!r}")
    merged = Document({}, {})
    for fragment in fragments:
        _merge(merged, _with_fragments(path.parent / fragment, seen=(*seen, resolved)))
    _merge(merged, document)
    return merged


def _merge(base: Document, layer: Document) -> None:
    """Lays `layer` over `base`: mappings merge, everything else replaces; another plugin name drops the old params."""

    def merge(old: dict[str, Any], new: dict[str, Any]) -> None:
        if "name" in new and "params" in old and new["name"] != old.get("name"):
            del old["params"]
        for key, value in new.items():
            if isinstance(value, dict) and isinstance(old.get(key), dict):
                merge(old[key], value)
            else:
                old[key] = value

    merge(base.tree, layer.tree)
    base.places.update(layer.places)


def _parse_override(text: str) -> Document:
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"override {text!r}: expected a.b=value, for example training.batch_size=64")
    return make_override(key.strip(), parse_value(value), place=f"override {text!r}")


def make_override(path: str, value: Any, *, place: str) -> Document:
    """One value at a dotted path; `place` is how messages name it."""
    parts = path.split(".")
    tree = value
    for part in reversed(parts):
        tree = {part: tree}
    return Document(tree, {tuple(parts[:n]): place for n in range(1, len(parts) + 1)})


def _import_plugins(document: Document) -> None:
    names = document.tree.get("plugins", [])
    for i, name in enumerate(names if isinstance(names, list) else []):
        try:
            importlib.import_module(str(name))
        except ImportError as error:
            place = document.places.get(("plugins", i), "plugins")
            raise ConfigError(f"{place}: plugins[{i}]: cannot import {name!r}: {error}; is it on PYTHONPATH?") from None


def to_tree(config: Config) -> dict[str, Any]:
    """The whole configuration, defaults included, as plain JSON values."""
    tree: dict[str, Any] = _ADAPTER.dump_python(config, mode="json")
    return tree


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    """{'a': {'b': 1}} -> {'a.b': 1}; lists and nulls as text."""
    flat: dict[str, str | int | float | bool] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, str | int | float | bool) else str(value)
    return flat


def to_yaml(config: Config) -> str:
    """The whole configuration as YAML that `load_config` reads back to an equal one."""
    return yaml.safe_dump(to_tree(config), sort_keys=False, default_flow_style=None, width=100)


def json_schema() -> dict[str, Any]:
    """JSON schema of a configuration file, all plugins included, for editors."""
    schema = _ADAPTER.json_schema()
    schema["properties"]["extends"] = {
        "description": "Files this one is laid over, relative to it.",
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    }
    return schema


def compute_identity(config: Config) -> dict[str, Any]:
    """The part of a configuration that decides the result: operational fields (logging, caches, paths) left out."""
    identity: dict[str, Any] = _identity(config)
    return identity


def _identity(value: Any) -> Any:
    if isinstance(value, Spec):
        return {"name": value.name, "params": _identity(value.params)}
    if isinstance(value, tuple):
        return [_identity(item) for item in value]
    fields = getattr(type(value), "__pydantic_fields__", None)
    if fields is None:
        return value
    kept = [n for n, f in fields.items() if not (f.json_schema_extra or {}).get("operational")]
    return {name: _identity(getattr(value, name)) for name in kept}


def compute_hash(config: Config) -> str:
    """SHA-256 of the identity: equal hashes promise equal results on equal hardware and versions."""
    return hashlib.sha256(json.dumps(compute_identity(config), sort_keys=True).encode()).hexdigest()


def diff_identity(old: Config, new: Config) -> list[str]:
    """'a.b: 1 -> 2' for each difference that decides the result."""
    return diff_trees(compute_identity(old), compute_identity(new))


def diff_trees(old: Any, new: Any, path: KeyPath = ()) -> list[str]:
    """'a.b: 1 -> 2' for each difference of two trees of plain values."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines = []
        for key in old.keys() | new.keys():
            lines += diff_trees(old.get(key), new.get(key), (*path, key))
        return sorted(lines)
    return [] if old == new else [f"{dotted(path)}: {old!r} -> {new!r}"]
