"""A package as one file: an uncompressed tar. Reading trusts nothing that its headers say."""

import contextlib
import os
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from mlvlab_jax.errors import DiskError, PackageError
from mlvlab_jax.package.members import FOLDERS, MANIFEST, MEMBERS, check_member

_MAX_MEMBERS = len(MEMBERS) + len(FOLDERS) + 2


def write_archive(folder: Path, path: Path) -> None:
    """Writes the package in `folder` to `path`; the same package gives the same bytes.

    Raises:
        DiskError: The write failed; nothing is left of it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with tarfile.open(temporary, "w", format=tarfile.GNU_FORMAT) as archive:
            for name in sorted(name for name in MEMBERS if (folder / name).exists()):
                member = tarfile.TarInfo(f"{path.stem}/{name}")
                member.size = (folder / name).stat().st_size
                with (folder / name).open("rb") as file:
                    archive.addfile(member, file)
        temporary.replace(path)
    except OSError as error:
        raise DiskError(f"{path}: {error.strerror or error}; free some space or choose another place") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def open_folder(path: Path) -> Iterator[Path]:
    """The package at `path` as a folder: itself, or what is in the tar, for as long as the block runs.

    Raises:
        PackageError: Neither a folder nor a tar that holds nothing but a package.
    """
    if path.is_dir():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="mlvlab-package-") as temporary:
        yield extract_archive(path, Path(temporary))


def extract_archive(path: Path, into: Path) -> Path:
    """Extracts the tar at `path` below the empty folder `into`, once all its members have been checked.

    Returns:
        The folder of the package. Its files are not verified yet.

    Raises:
        PackageError: Not a tar, or one that holds anything but the files of one package.
        DiskError: The disk is full.
    """
    if not path.is_file():
        raise PackageError(f"{path}: no such folder or file; expected a model package; check the path")
    try:
        with tarfile.open(path, "r:") as archive:
            members, root = _check_members(archive, path)
            archive.extractall(into, members, filter="data")
    except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:
        raise PackageError(
            f"{path}: not an uncompressed tar as mlvlab package --tar writes it ({error}); fetch it again"
        ) from None
    except OSError as error:
        raise DiskError(f"{into}: {error.strerror or error}; free some space, or set TMPDIR") from error
    return into / root


def _check_members(archive: tarfile.TarFile, path: Path) -> tuple[list[tarfile.TarInfo], PurePosixPath]:
    """The members, and the folder of the package among them."""
    found: dict[PurePosixPath, tarfile.TarInfo] = {}
    for member in archive:
        name = PurePosixPath(member.name)
        if name.is_absolute() or ".." in name.parts:
            raise PackageError(f"{path}: member {member.name!r} points outside; take it out, or fetch it again")
        if name in found:
            raise PackageError(f"{path}: member {member.name!r} is there twice; take one out, or fetch it again")
        plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()
        if not plain and not member.isdir():
            raise PackageError(
                f"{path}: member {member.name!r} is of tar type {member.type!r}; expected plain files and folders, no "
                "links or devices; take it out, or fetch it again"
            )
        found[name] = member
        if len(found) > _MAX_MEMBERS:
            raise PackageError(f"{path}: over {_MAX_MEMBERS} members; expected those of one package; fetch it again")
    roots = [name.parent for name in found if name.name == MANIFEST and len(name.parts) <= 2]
    if len(roots) != 1:
        raise PackageError(f"{path}: {len(roots)} files {MANIFEST}; expected one, at the top or in a folder of its own")
    root = roots[0]
    for name, member in found.items():
        inside = str(name.relative_to(root)) if name.is_relative_to(root) else str(name)
        if not member.isdir():
            check_member(inside, member.size, place=str(path))
        elif inside != "." and inside not in FOLDERS and name != root:
            raise PackageError(f"{path}: holds folder {member.name!r}; expected {sorted(FOLDERS)}; take it out")
    return list(found.values()), root
