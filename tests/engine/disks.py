"""Disks that fill and disks that refuse, for real: a small tmpfs, a limit on the size of files, a read-only mount."""

import contextlib
import resource
import shutil
import subprocess
import time

import pytest


@contextlib.contextmanager
def small_disk(folder, *, size="6m"):
    """A disk of its own at `folder`, of 6 MB."""
    folder.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("this user may not mount a disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(folder, *, but=0):
    """Takes all but so many bytes."""
    with (folder / "filling").open("wb", buffering=0) as file, contextlib.suppress(OSError):  # others may be writing
        for _ in range(max(0, shutil.disk_usage(folder).free - but) // 4096):
            file.write(bytes(4096))


class Full:
    """No room at all."""

    words = "No space left on device"

    def begin(self, folder):
        fill(folder)

    def end(self, folder):
        (folder / "filling").unlink(missing_ok=True)


class NearlyFull(Full):
    """Room for the descriptions, and not for the arrays."""

    def begin(self, folder):
        fill(folder, but=60_000)


class ReadOnly:
    """Nothing can be written."""

    words = "Read-only file system"

    def begin(self, folder):
        end = time.monotonic() + 30  # it is refused while a file is being written
        while subprocess.run(["mount", "-o", "remount,ro", folder], capture_output=True).returncode:
            assert time.monotonic() < end
            time.sleep(0.01)

    def end(self, folder):
        subprocess.run(["mount", "-o", "remount,rw", folder], check=True)


class SmallFiles:
    """No file may be larger than some kilobytes."""

    words = "File too large"

    def begin(self, folder):
        self._before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, self._before[1]))

    def end(self, folder):
        resource.setrlimit(resource.RLIMIT_FSIZE, self._before)


class Tiny(SmallFiles):
    """Hardly a file can be written."""

    def begin(self, folder):
        super().begin(folder)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, self._before[1]))


FAULTS = [Full(), NearlyFull(), ReadOnly(), SmallFiles(), Tiny()]


@contextlib.contextmanager
def broken(fault, folder):
    fault.begin(folder)
    try:
        yield
    finally:
        fault.end(folder)
