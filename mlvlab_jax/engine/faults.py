"""Faults that tests put into a run from outside, by the environment variable MLVLAB_FAULTS.

It lists PLACE:TIME=ACTION, divided by commas: the TIME-th moment (from 1) at which a process comes by PLACE, and what
happens to it there. Places are the phases of a run as they begin (`telemetry.PHASES`) and those that call `strike`.

    signal:NAME   this process gets the signal, such as KILL or TERM
    sleep:S       this thread does nothing for so many seconds
    error:NAME    OSError with that errno, such as ENOSPC
    do:WORD       what the place itself makes of the word

For tests alone: outside pytest a run that finds the variable is refused.
"""

import collections
import errno
import functools
import os
import signal
import threading
import time
from typing import NamedTuple

from mlvlab_jax.errors import ConfigError

VARIABLE = "MLVLAB_FAULTS"
_ACTIONS = ("signal", "sleep", "error", "do")


class Fault(NamedTuple):
    """What happens: one of the actions, and its value."""

    action: str
    value: str


class Plan:
    """Faults by place and time; counts how often a place was reached. Any thread may ask."""

    def __init__(self, faults: dict[tuple[str, int], Fault]) -> None:
        self._faults = faults
        self._reached: collections.Counter[str] = collections.Counter()
        self._lock = threading.Lock()

    def next(self, place: str, at: int | None) -> Fault | None:
        """What happens at this place this time, or the time `at`."""
        with self._lock:
            self._reached[place] += 1
            return self._faults.get((place, at or self._reached[place]))


def parse_faults(text: str) -> dict[tuple[str, int], Fault]:
    """The faults by place and time.

    Raises:
        ConfigError: The text is not of the form above.
    """
    faults = {}
    for entry in filter(None, text.split(",")):
        place, _, what = entry.partition("=")
        name, _, moment = place.partition(":")
        action, _, value = what.partition(":")
        if not moment.isdecimal() or action not in _ACTIONS:
            raise ConfigError(f"{VARIABLE}: '{entry}': expected PLACE:TIME=ACTION, an action of {', '.join(_ACTIONS)}")
        faults[name, int(moment)] = Fault(action, value)
    return faults


def refuse_outside_tests() -> None:
    """A run that would be broken on purpose, and not by a test, does not begin.

    Raises:
        ConfigError: The variable is set, and no test is running.
    """
    if os.environ.get(VARIABLE) and "PYTEST_CURRENT_TEST" not in os.environ:
        raise ConfigError(f"{VARIABLE} is set, which breaks runs on purpose; it is for tests alone; unset it")


def strike(place: str, *, at: int | None = None) -> str | None:
    """What a test wants to happen here, if anything; returns the word the place is to make something of.

    Args:
        place: Where this is.
        at: Which time it is, where the place has numbers of its own, such as those of steps.
    """
    plan = _planned()
    fault = plan.next(place, at) if plan else None
    if fault is None:
        return None
    if fault.action == "signal":
        os.kill(os.getpid(), getattr(signal, f"SIG{fault.value}"))
    elif fault.action == "sleep":
        time.sleep(float(fault.value))
    elif fault.action == "error":
        number = getattr(errno, fault.value)
        raise OSError(number, os.strerror(number))
    else:
        return fault.value
    return None


@functools.cache
def _planned() -> Plan | None:
    text = os.environ.get(VARIABLE)
    return Plan(parse_faults(text)) if text else None
