"""Processes that train start over with settings of glibc's malloc, once, and only where that is wanted."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")

_TOLD = "import os; print(os.getpid(), os.environ.get('GLIBC_TUNABLES', ''))"


def _run(code: str, *arguments: str, tunables: str | None = None, flags: tuple[str, ...] = ()) -> list[str]:
    """Lines that a process prints which runs `code`."""
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[1])}
    environment |= {} if tunables is None else {"GLIBC_TUNABLES": tunables}
    command = [sys.executable, *flags, "-c", code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()


def _start_over(given: str = "None") -> str:
    return f"{_TOLD}; from mlvlab_jax.malloc import keep_freed_memory as k; k({given}); {_TOLD}; import sys; print(sys.argv[1:], sys.flags.utf8_mode)"


def test_the_process_starts_over_once_with_its_arguments() -> None:
    lines = _run(_start_over(), "a b", "--c=d", flags=("-X", "utf8"))
    first, again, then, arguments = lines
    assert first.split(maxsplit=1)[1:] == []
    assert again == then  # started over, it goes on
    assert first.split()[0] == again.split()[0]  # the same process
    assert "glibc.malloc.hugetlb=1" in again
    assert arguments == "['a b', '--c=d'] 1"


@pytest.mark.parametrize("tunables", ["glibc.malloc.hugetlb=0", "glibc.pthread.rseq=1:glibc.malloc.arena_max=2"])
def test_what_the_user_set_of_malloc_stays(tunables: str) -> None:
    assert [line.split(maxsplit=1)[1] for line in _run(_start_over(), tunables=tunables)[:2]] == [tunables, tunables]


def test_what_the_user_set_of_other_things_stays_beside_it() -> None:
    told = _run(_start_over(), tunables="glibc.pthread.rseq=1")[-2]
    assert told.split()[1].startswith("glibc.pthread.rseq=1:glibc.malloc.hugetlb=1:")


@pytest.mark.parametrize(
    "before",
    [
        "import sys; sys.modules['jax'] = None; ",
        "import threading, time; threading.Thread(target=time.sleep, args=(1,)).start(); ",
        "import sys; import mlvlab_jax.malloc as m; m._glibc_version = lambda: (2, 34); ",
        "import sys; import mlvlab_jax.malloc as m; m._glibc_version = lambda: (); ",
    ],
    ids=["jax", "thread", "old", "other"],
)
def test_it_goes_on_where_starting_over_is_wrong_or_useless(before: str) -> None:
    assert [len(line.split()) for line in _run(before + _start_over())[:2]] == [1, 1]


def test_a_program_from_standard_input_is_left_alone() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-"]
    done = subprocess.run(command, env=environment, input=_start_over(), capture_output=True, text=True, check=True)
    assert [len(line.split()) for line in done.stdout.splitlines()[:2]] == [1, 1]


def test_a_program_that_calls_a_command_is_left_alone() -> None:
    assert [len(line.split()) for line in _run(_start_over("['--config', 'x']"))[:2]] == [1, 1]


@pytest.mark.parametrize("module", ["train", "evaluate", "probe"])
@pytest.mark.parametrize("by_command", [True, False])
def test_the_commands_that_compute_start_over(module: str, by_command: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    name = "mlvlab_jax.cli" if by_command else f"mlvlab_jax.{module}"
    command = importlib.import_module(name)
    monkeypatch.setattr(sys, "argv", ["mlvlab", *([module] if by_command else []), "--help"])
    asked: list[object] = []
    monkeypatch.setattr(command, "keep_freed_memory", asked.append)
    with pytest.raises(SystemExit):
        command.main()
    assert asked == [None]
