"""Data versions: what DVC recorded of the data a run reads, and whether the bytes on disk are still those.

Pointers (`X.dvc`) and `dvc.lock` are read as files: DVC need not be installed, and nothing is written.
"""

import dataclasses
import logging
import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from mlvlab_jax.data.md5 import compute_file_md5, compute_folder_md5, compute_md5s, list_files, read_listing
from mlvlab_jax.errors import DataError

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class DataVersion:
    """A file or folder as DVC recorded it.

    path: what is tracked, relative where it was asked for by a relative path. md5: DVC's, ending in ".dir" for
    a folder.
    size_bytes, num_files: None where DVC left them out. revision: git commit of the repository that holds the pointer,
    or None outside of one. dirty: this commit and md5 do not lead back to the bytes on disk, because the pointer is
    not committed as it is, or because the bytes are known to differ from it.
    """

    path: Path
    md5: str
    size_bytes: int | None
    num_files: int | None
    revision: str | None
    dirty: bool

    def to_tree(self) -> dict[str, str | int | bool | None]:
        """As plain JSON values."""
        return {**dataclasses.asdict(self), "path": self.path.as_posix()}


class GitState(NamedTuple):
    """Commit a working tree is at, and whether it has changes or new files beside it."""

    commit: str
    dirty: bool


def describe_git(folder: Path, *names: str) -> GitState | None:
    """State of the git repository around `folder`, or None outside of one; `names` limit dirtiness to these files."""
    ignored = ["--ignored"] if names else []

    def git(*args: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(folder), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return GitState(git("rev-parse", "HEAD"), bool(git("status", "--porcelain", *ignored, "--", *names)))
    except (OSError, subprocess.SubprocessError):
        return None


def read_versions(paths: Iterable[Path]) -> tuple[DataVersion, ...]:
    """Versions of those of `paths` that DVC tracks, each tracked file or folder once.

    Raises:
        DataError: As in `read_version`.
    """
    found = [version for path in paths if (version := read_version(path)) is not None]
    return tuple({version.path: version for version in found}.values())


def read_version(path: Path) -> DataVersion | None:
    """What DVC recorded of `path`, or of the tracked folder it lies in; None where nothing tracks it.

    Looks for a `.dvc` pointer or a `dvc.lock` entry beside `path` and in each folder above, up to the
    repository's root.

    Raises:
        DataError: A pointer on the way is in conflict, not of DVC 3's format, or has no md5.
    """
    # Not resolve(): a pointer lies beside a link, not beside what the link leads to.
    target = Path(os.path.abspath(path))  # noqa: PTH100
    for folder in target.parents:
        child = target.relative_to(folder).parts[0]
        for pointer in (folder / f"{child}.dvc", folder / "dvc.lock"):
            for out, entry in _read_outs(pointer) if pointer.is_file() else ():
                if target.is_relative_to(out):
                    shown = out if path.is_absolute() else Path(os.path.relpath(out))
                    return _make_version(shown, entry, pointer)
        if (folder / ".dvc").is_dir() or (folder / ".git").exists():
            return None
    return None


def pull_hint(path: Path) -> str:
    """'; DVC tracks it: dvc pull X' for a path that is missing though something tracks it, else ''."""
    version = read_version(path)
    return f"; DVC tracks it: dvc pull {version.path}" if version else ""


def verify_version(version: DataVersion) -> list[str]:
    """Names of the files whose bytes are not those of `version`, sorted; reads everything once, in threads.

    Names are relative to a tracked folder. Where DVC's cache has no listing of the folder, all that can be said is that
    it differs: then its own name is given. What a `.dvcignore` hides is left out, in a git repository.

    Raises:
        DataError: Files are missing, as after half a `dvc pull`, or cannot be read.
    """
    if not version.path.exists():
        raise DataError(f"{version.path}: is tracked by DVC and not there; run: dvc pull {version.path}")
    if not version.md5.endswith(".dir"):
        return [] if compute_file_md5(version.path) == version.md5 else [version.path.name]
    names = list_files(version.path)
    listing = read_listing(version.path, version.md5)
    _check_complete(version, names, listing)
    digests = compute_md5s(version.path, names)
    if listing is None:
        return [] if compute_folder_md5(digests) == version.md5 else [f"{version.path.name}/"]
    return [name for name in names if listing.get(name) != digests[name]]


def check_versions(
    versions: Iterable[DataVersion], *, verify: Literal["off", "warn", "strict"]
) -> tuple[DataVersion, ...]:
    """`versions`, those whose bytes differ marked dirty and logged as a warning.

    Raises:
        DataError: Bytes differ and `verify` is strict; or, unless it is off, files are missing.
    """
    if verify == "off":
        return tuple(versions)
    checked = []
    for version in versions:
        differing = verify_version(version)
        if differing:
            more = f", ... ({len(differing)} in all)" if len(differing) > 5 else ""
            found = (
                f"{version.path}: not the bytes of data version {version.md5}; changed or added: "
                f"{', '.join(differing[:5])}{more}; bring the version back (dvc checkout {version.path}) "
                f"or record a new one (dvc commit {version.path})"
            )
            if verify == "strict":
                raise DataError(f"{found}, or set data_version.verify: warn")
            _log.warning(found)
        checked.append(dataclasses.replace(version, dirty=version.dirty or bool(differing)))
    return tuple(checked)


def _check_complete(version: DataVersion, names: list[str], listing: dict[str, str] | None) -> None:
    lost = sorted(listing.keys() - set(names)) if listing is not None else []
    if lost:
        what = f"{len(lost)} of {len(listing or {})} files are missing, first {lost[0]}"
    elif listing is None and version.num_files is not None and len(names) < version.num_files:
        what = f"{version.num_files - len(names)} of {version.num_files} files are missing"
    else:
        return
    raise DataError(
        f"{version.path}: {what}; fetch them (dvc pull {version.path}), "
        f"or record that they are gone (dvc commit {version.path})"
    )


def _read_outs(pointer: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Absolute path and entry of each output a `.dvc` file or a `dvc.lock` names."""
    tree = _read_pointer(pointer)
    for stage, wdir in _stages(tree, pointer):
        outs = stage.get("outs")
        if not isinstance(outs, list) or not all(isinstance(out, dict) and "path" in out for out in outs):
            raise _malformed(pointer, "has no 'outs: [{md5, size, hash, path}]'")
        for out in outs:
            yield Path(os.path.normpath(pointer.parent / wdir / str(out["path"]))), out


def _stages(tree: dict[str, Any], pointer: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Each stage with its working folder, which dvc.lock leaves to the dvc.yaml beside it."""
    if pointer.name != "dvc.lock":
        yield tree, str(tree.get("wdir", "."))
        return
    definitions_path = pointer.with_name("dvc.yaml")
    definitions = _read_pointer(definitions_path).get("stages", {}) if definitions_path.is_file() else {}
    for name, stage in tree.get("stages", {}).items():
        if not isinstance(stage, dict):
            raise _malformed(pointer, f"stage {name!r} is not a mapping")
        definition = definitions.get(name.split("@")[0], {})
        once = definition.get("do", definition) if isinstance(definition, dict) else {}
        yield {"outs": [], **stage}, str(once.get("wdir", "."))


def _read_pointer(pointer: Path) -> dict[str, Any]:
    try:
        text = pointer.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _malformed(pointer, f"cannot be read ({error})") from None
    if re.search(r"^(<{7}|>{7}) ", text, re.MULTILINE):
        raise DataError(
            f"{pointer}: holds the two sides of a git merge conflict; keep one (git checkout --ours or --theirs "
            f"{pointer.name}), then run: dvc checkout"
        )
    try:
        # Leaves every value a string, so that no name or digest is taken for a number, a date or a truth value.
        tree = yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506
    except yaml.YAMLError as error:
        raise _malformed(pointer, f"is not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(tree, dict) or not isinstance(tree.get("stages", {}), dict):
        raise _malformed(pointer, "is not a mapping")
    return tree


def _make_version(path: Path, entry: dict[str, Any], pointer: Path) -> DataVersion:
    md5 = entry.get("md5")
    if not re.fullmatch(r"[0-9a-f]{32}(\.dir)?", str(md5)):
        raise DataError(
            f"{pointer}: md5 of {entry['path']!r} is {md5!r}; expected 32 hex digits; record the data: "
            f"dvc commit {path}"
        )
    if entry.get("hash") != "md5":
        raise DataError(
            f"{pointer}: hash of {entry['path']!r} is {entry.get('hash')!r}; expected 'md5', the format of DVC 3; "
            "rewrite older pointers: dvc cache migrate --dvc-files"
        )
    size, num_files = (int(entry[k]) if str(entry.get(k)).isdecimal() else None for k in ("size", "nfiles"))
    git = describe_git(pointer.parent, pointer.name)
    return DataVersion(
        path,
        md5=str(md5),
        size_bytes=size,
        num_files=num_files if str(md5).endswith(".dir") else 1,
        revision=git.commit if git else None,
        dirty=git.dirty if git else False,
    )


def _malformed(pointer: Path, what: str) -> DataError:
    return DataError(
        f"{pointer}: {what}; expected a file as DVC 3 writes it; restore it (git checkout {pointer.name}), "
        "or make it again with dvc add or dvc repro"
    )
