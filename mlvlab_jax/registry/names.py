"""Names of models and aliases, and the one way to write which version is meant: NAME, NAME:VERSION or NAME@ALIAS."""

import re
from typing import NamedTuple

from mlvlab_jax.errors import RegistryError
from mlvlab_jax.package.manifest import is_name
from mlvlab_jax.registry.versions import is_version, parse_version

_ALIAS = re.compile(r"[a-z][a-z0-9_-]{0,49}")
# MLflow keeps these for itself; a name is to mean the same in every store.
_RESERVED_ALIAS = re.compile(r"latest|v[0-9]+")


class Reference(NamedTuple):
    """A model and, where one was named, which of its versions: `version` or `alias`, never both."""

    name: str
    version: str | None
    alias: str | None


def check_name(name: str) -> None:
    """Refuses what cannot name a model.

    Raises:
        RegistryError: It has other characters than the message lists, is empty or too long.
    """
    if not is_name(name):
        raise RegistryError(
            f"model name {name[:110]!r}: expected 1 to 100 of the characters A-Z a-z 0-9 . _ -, "
            "the first a letter or a digit"
        )


def check_alias(alias: str) -> None:
    """Refuses what cannot name an alias.

    Raises:
        RegistryError: It has other characters than the message lists, is empty, too long or reserved.
    """
    if not _ALIAS.fullmatch(alias) or _RESERVED_ALIAS.fullmatch(alias):
        raise RegistryError(
            f"alias {alias[:60]!r}: expected 1 to 50 of the characters a-z 0-9 _ -, the first a letter, "
            "and neither 'latest' nor v1, v2, ...; for example champion"
        )


def parse_reference(text: str) -> Reference:
    """NAME, NAME:VERSION or NAME@ALIAS.

    Raises:
        RegistryError: Name, version or alias is not well formed.
    """
    name, mark, which = _split(text)
    check_name(name)
    if mark == ":":
        parse_version(which)
        return Reference(name, which, None)
    if mark == "@":
        check_alias(which)
        return Reference(name, None, which)
    return Reference(name, None, None)


def check_which(which: str) -> None:
    """Refuses what is neither a version nor an alias.

    Raises:
        RegistryError: As in `check_alias`.
    """
    if not is_version(which):
        check_alias(which)


def _split(text: str) -> tuple[str, str, str]:
    found = re.search(r"[:@]", text)
    return (text[: found.start()], found[0], text[found.end() :]) if found else (text, "", "")
