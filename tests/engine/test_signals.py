"""One signal asks, a second ends; several processes stop after the same step."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from mlvlab_jax.engine import signals
from mlvlab_jax.engine.signals import AgreedStop, StopSignals

#: The main thread is in C and hears nothing until that is done, which takes minutes.
BUSY = """
import hashlib
from mlvlab_jax.engine.signals import StopSignals
with StopSignals() as heard:
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**30)
"""


def wait_for(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_afterwards_signals_are_what_they_were(number):
    before = signal.getsignal(number)
    with StopSignals() as heard:
        assert not heard.asked
        os.kill(os.getpid(), number)
        assert wait_for(lambda: heard.asked)
    assert signal.getsignal(number) is before
    assert signal.set_wakeup_fd(-1) == -1


def test_other_signals_ask_nothing():
    before = signal.signal(signal.SIGUSR1, lambda number, frame: None)
    try:
        with StopSignals() as heard:
            os.kill(os.getpid(), signal.SIGUSR1)
            assert not wait_for(lambda: heard.asked, seconds=0.2)
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize(("first", "second"), [("SIGTERM", "SIGTERM"), ("SIGINT", "SIGINT"), ("SIGTERM", "SIGINT")])
def test_the_second_signal_ends_a_process_that_is_busy_within_a_second(first, second):
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "ready\n"
        child.send_signal(getattr(signal, first))
        time.sleep(0.3)
        assert child.poll() is None
        sent = time.monotonic()
        child.send_signal(getattr(signal, second))
        assert child.wait(timeout=10) == 128 + getattr(signal, second)
        assert time.monotonic() - sent < 1


def test_in_another_thread_it_does_nothing():
    asked = []

    def work():
        with StopSignals() as heard:
            asked.append(heard.asked)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert asked == [False]


def test_one_process_answers_for_itself_at_once():
    asked = []
    stop = AgreedStop(lambda: bool(asked))
    assert not stop(1)
    asked.append(1)
    assert stop(2)


class Together:
    """Several processes that gather as one would: each in its thread, all waiting for each other."""

    def __init__(self, count, monkeypatch):
        self._barrier, self._values = threading.Barrier(count), {}
        self.gathered = []
        monkeypatch.setattr(signals, "is_joined", lambda: True)
        monkeypatch.setattr(signals, "gather", self._gather)

    def _gather(self, value):
        self._values[threading.current_thread().name] = value
        self._barrier.wait(timeout=10)
        values = [self._values[name] for name in sorted(self._values)]
        if self._barrier.wait(timeout=10) == 0:
            self.gathered.append(values)
        return values


def test_all_stop_after_the_same_step_though_one_was_asked_and_their_clocks_differ(monkeypatch):
    together, stopped = Together(3, monkeypatch), {}

    def train(rank):
        asked_at = 137 if rank == 1 else None
        step_s = 0.002
        stop, step = None, 0

        def asked():
            return asked_at is not None and step >= asked_at

        stop = AgreedStop(asked)
        while step < 5000:
            step += 1
            time.sleep(step_s * (1 + rank))
            if stop(step):
                break
        stopped[rank] = step

    threads = [threading.Thread(target=train, args=(rank,), name=str(rank)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(set(stopped.values())) == 1
    assert 137 <= stopped[0] < 137 + 500
    assert len(together.gathered) < stopped[0] / 4  # not after each step
