"""Semantic versions: what they look like and which comes after which."""

import dataclasses
import functools
import re

from mlvlab_jax.errors import RegistryError

# The expression of semver.org, held to ASCII digits.
_PATTERN = re.compile(
    r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)"
    r"(?:-((?:0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)(?:\.(?:0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*))*))?"
    r"(?:\+([0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*))?"
)
_MAX_LENGTH = 100


@functools.total_ordering
@dataclasses.dataclass(frozen=True)
class SemVer:
    """A version and its place in the order: by precedence, then by build, which the standard leaves unordered.

    References:
        T. Preston-Werner, "Semantic Versioning 2.0.0", 2013, semver.org.
    """

    major: int
    minor: int
    patch: int
    prerelease: tuple[str, ...] = ()
    build: tuple[str, ...] = ()

    def __lt__(self, other: object) -> bool:
        return self._rank() < other._rank() if isinstance(other, SemVer) else NotImplemented

    def _rank(self) -> tuple[object, ...]:
        # Numbers rank below words, and a release above all of its pre-releases.
        parts = tuple((0, int(p), "") if p.isdecimal() else (1, 0, p) for p in self.prerelease)
        return (self.major, self.minor, self.patch, not self.prerelease, parts, self.build)


def parse_version(text: str) -> SemVer:
    """The version that `text` writes.

    Raises:
        RegistryError: It is no semantic version.
    """
    found = _PATTERN.fullmatch(text) if len(text) <= _MAX_LENGTH else None
    if found is None:
        raise RegistryError(
            f"version {text[:_MAX_LENGTH]!r}: expected a semantic version, MAJOR.MINOR.PATCH without leading zeros, "
            "such as 1.0.0 or 1.1.0-rc.1 (semver.org)"
        )
    major, minor, patch, prerelease, build = found.groups()
    words = (tuple(part.split(".")) if part else () for part in (prerelease, build))
    return SemVer(int(major), int(minor), int(patch), *words)


def is_version(text: str) -> bool:
    """Whether `text` is a semantic version."""
    return len(text) <= _MAX_LENGTH and _PATTERN.fullmatch(text) is not None
