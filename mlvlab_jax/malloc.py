"""glibc's malloc as a training step needs it: memory once taken is kept, and lies in huge pages.

XLA:CPU asks malloc for the temporaries of every step. Blocks of that size glibc maps anew each time and gives back when
they are freed, so each step waits for the kernel to clear the same pages again, 4 KiB at a time. The settings are read
before a program's first line (`man 3 mallopt`, "Memory Allocation Tunables" in glibc's manual): the process starts over
with them. They change no number that is computed.
"""

import os
import sys
import threading
from collections.abc import Mapping, Sequence

_VARIABLE = "GLIBC_TUNABLES"
#: Huge pages where the kernel grants them on request; no block mapped by itself; no freed memory given back; growing in
#: large pieces.
_TUNABLES = {
    "glibc.malloc.hugetlb": 1,
    "glibc.malloc.mmap_max": 0,
    "glibc.malloc.trim_threshold": 1 << 40,
    "glibc.malloc.top_pad": 256 << 20,
}
#: The first glibc that knows of huge pages.
_FIRST_GLIBC = (2, 35)


def keep_freed_memory(arguments: Sequence[str] | None) -> None:
    """Starts this process over, with the same arguments and the settings above. Returns where that is not to be done.

    That is: called from a program or from one that is read from standard input, on another system or an older glibc,
    once JAX or a thread is there, and where the user set something of malloc in GLIBC_TUNABLES
    (glibc.malloc.hugetlb=0 leaves all as it is).

    Args:
        arguments: What the command's `main` was given; None where it is the process's own.
    """
    again = sys.executable and sys.argv[0] not in ("", "-")
    if arguments is not None or not again or "jax" in sys.modules or threading.active_count() > 1:
        return
    environment = with_tunables(os.environ) if _glibc_version() >= _FIRST_GLIBC else None
    if environment is not None:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def with_tunables(environment: Mapping[str, str]) -> dict[str, str] | None:
    """The environment with the settings, or None where it has some of malloc."""
    given = environment.get(_VARIABLE, "")
    if "glibc.malloc" in given:
        return None
    settings = [f"{name}={value}" for name, value in _TUNABLES.items()]
    return {**environment, _VARIABLE: ":".join([*filter(None, [given]), *settings])}


def _glibc_version() -> tuple[int, ...]:
    """Empty where the C library is another."""
    if "CS_GNU_LIBC_VERSION" not in getattr(os, "confstr_names", {}):
        return ()
    name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    return tuple(int(part) for part in version.split(".")) if name == "glibc" else ()
