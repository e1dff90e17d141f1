"""`mlvlab registry ACTION ...`: models by name and version, and the aliases that say which one is meant.

NAME:VERSION means a version, NAME@ALIAS the one that an alias points to.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlvlab_jax.cli import pick_action, run_command

if TYPE_CHECKING:
    from mlvlab_jax.registry import ModelRegistry
    from mlvlab_jax.registry.store import Event, ModelVersion


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    texts = {name: text for name, (_, text, _) in _ACTIONS.items()}
    action = pick_action("registry", __doc__, texts, arguments)
    # Not a sub-parser: those do not take positional arguments after options.
    parsed = _make_parser(action).parse_intermixed_args(arguments[1:])
    return run_command(lambda: _ACTIONS[action][0](parsed, _open_registry(parsed)))


def _make_parser(action: str) -> argparse.ArgumentParser:
    _, text, reference = _ACTIONS[action]
    parser = argparse.ArgumentParser(prog=f"mlvlab registry {action}", description=text)
    parser.add_argument("reference", metavar=reference, nargs="?" if action == "list" else None)
    if action == "register":
        parser.add_argument("package", type=Path, metavar="PACKAGE", help="model package, a folder or a tar")
        parser.add_argument("--metadata", action="append", default=[], metavar="KEY=VALUE", help="a note; repeatable")
    if action == "promote":
        parser.add_argument("overrides", nargs="*", metavar="a.b=value", help="single values of the policy")
        parser.add_argument("--policy", type=Path, metavar="FILE", help="YAML file of what the gates ask")
        parser.add_argument("--alias", default="champion", help="the alias to move (default: champion)")
    parser.add_argument(
        "--registry",
        default="experiments/registry",
        metavar="PLACE",
        help="folder, or address of an MLflow server or database (default: experiments/registry)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _open_registry(parsed: argparse.Namespace) -> "ModelRegistry":
    from mlvlab_jax.registry.model_registry import ModelRegistry, open_store

    return ModelRegistry(open_store(parsed.registry))


def _list(parsed: argparse.Namespace, registry: "ModelRegistry") -> int:
    records = registry.list(parsed.reference)
    aliases = {name: registry.aliases(name) for name in {record.name for record in records}}
    trees = [_describe(record, aliases[record.name]) for record in records]
    if parsed.json:
        return _print_json(trees)
    rows = [(t["name"], t["version"], " ".join(t["aliases"]), t["created"][:16], t["created_by"]) for t in trees]
    return _print_table(("model", "version", "aliases", "registered", "by"), rows)


def _show(parsed: argparse.Namespace, registry: "ModelRegistry") -> int:
    name, which = _split(parsed.reference)
    if which is not None:
        record = registry.get(name, which)
        return _print_json(_describe(record, registry.aliases(name)))
    events = registry.history(name)
    if parsed.json:
        return _print_json({"name": name, "aliases": registry.aliases(name), "history": [e.to_tree() for e in events]})
    return _print_table(("time", "by", "what"), [(e.time[:19], e.who, _tell(e)) for e in events])


def _register(parsed: argparse.Namespace, registry: "ModelRegistry") -> int:
    from mlvlab_jax.errors import ConfigError

    name, version = _split(parsed.reference, expected=":")
    notes = dict(note.partition("=")[::2] for note in parsed.metadata)
    if not all(notes):
        raise ConfigError(f"--metadata {parsed.metadata}: expected KEY=VALUE")
    record = registry.register(name=name, version=str(version), package=parsed.package, metadata=notes)
    return _say(parsed, f"{name} {version}: registered", record.to_tree())


def _promote(parsed: argparse.Namespace, registry: "ModelRegistry") -> int:
    from mlvlab_jax.config.load import read_section
    from mlvlab_jax.errors import RegistryError
    from mlvlab_jax.registry.gate import RefusedError
    from mlvlab_jax.registry.policy import PromotionPolicy

    name, which = _split(parsed.reference, expected=":@")
    policy, _ = read_section(PromotionPolicy, parsed.policy, parsed.overrides)
    version = registry.get(name, str(which)).version
    try:
        results = registry.promote(name, version, alias=parsed.alias, policy=policy)
    except RefusedError as error:
        results = error.results
    refused = [result.name for result in results if not result.passed]
    tree = {"name": name, "version": version, "alias": parsed.alias, "promoted": not refused}
    if parsed.json:
        _print_json(tree | {"gates": [result._asdict() for result in results]})
    else:
        rows = [(result.name, "passed" if result.passed else "REFUSED", result.message) for result in results]
        _print_table(("gate", "", ""), rows)
    if refused:
        raise RegistryError(f"{name} {version} as {parsed.alias}: refused by {', '.join(refused)}; nothing was changed")
    if not parsed.json:
        print(f"{name}@{parsed.alias} is {version}")
    return 0


def _rollback(parsed: argparse.Namespace, registry: "ModelRegistry") -> int:
    name, alias = _split(parsed.reference, expected="@")
    record = registry.rollback(name, str(alias))
    return _say(parsed, f"{name}@{alias} is {record.version} again", record.to_tree())


def _verify(parsed: argparse.Namespace, registry: "ModelRegistry") -> int:
    from mlvlab_jax.errors import MlvlabError, PackageError

    name, which = _split(parsed.reference)
    versions = [r.version for r in (registry.list(name) if which is None else [registry.get(name, which)])]
    bad = {}
    for version in versions:
        try:
            registry.verify(name, version)
        except MlvlabError as error:
            bad[version] = str(error)
    good = [version for version in versions if version not in bad]
    if parsed.json or good:
        _say(parsed, f"{name} {', '.join(good)}: good", {"name": name, "good": good, "bad": bad})
    if bad:
        raise PackageError("\n".join(f"{name} {version}: {text}" for version, text in bad.items()))
    return 0


def _split(text: str, *, expected: str = "") -> tuple[str, str | None]:
    """Name, and version or alias; one of the marks in `expected` must stand between them."""
    from mlvlab_jax.errors import RegistryError
    from mlvlab_jax.registry.names import parse_reference

    reference = parse_reference(text)
    given = {":": reference.version, "@": reference.alias}
    if expected and not any(given[mark] for mark in expected):
        forms = {":": "NAME:VERSION", "@": "NAME@ALIAS"}
        raise RegistryError(f"{text!r}: expected {' or '.join(forms[mark] for mark in expected)}")
    return reference.name, reference.version or reference.alias


def _describe(record: "ModelVersion", aliases: dict[str, str]) -> dict[str, Any]:
    return record.to_tree() | {"aliases": [alias for alias, version in aliases.items() if version == record.version]}


def _tell(event: "Event") -> str:
    if event.alias is None:
        return f"{event.version} registered"
    came_from = f", was {event.previous}" if event.previous else ""
    return f"{event.alias} -> {event.version} ({event.action}{came_from})"


def _say(parsed: argparse.Namespace, text: str, tree: Any) -> int:
    if parsed.json:
        return _print_json(tree)
    print(text)
    return 0


def _print_json(tree: Any) -> int:
    print(json.dumps(tree, indent=2))
    return 0


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    table = Table(*(Column(title, overflow="fold") for title in head), box=None, pad_edge=False)
    for row in rows:
        table.add_row(*map(Text, row))
    Console(highlight=False).print(table)
    return 0


_ACTIONS: dict[str, tuple[Callable[[argparse.Namespace, "ModelRegistry"], int], str, str]] = {
    "list": (_list, "list versions and aliases", "NAME"),
    "show": (_show, "show a version, or a model's history", "NAME[:VERSION|@ALIAS]"),
    "register": (_register, "add a model package as a version", "NAME:VERSION"),
    "promote": (_promote, "let an alias point to a version, if every gate agrees", "NAME:VERSION|NAME@ALIAS"),
    "rollback": (_rollback, "let an alias point to what it did before its last promotion", "NAME@ALIAS"),
    "verify": (_verify, "check every byte of a package, or of all of a model", "NAME[:VERSION|@ALIAS]"),
}

if __name__ == "__main__":
    sys.exit(main())
