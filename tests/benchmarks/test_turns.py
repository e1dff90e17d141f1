import importlib
import os
import sys

import pytest

from tests.benchmarks.conftest import BENCHMARKS

ANSWERS = """
import sys
sys.path.insert(0, {path!r})
from worker import answer_requests
print("a library says something")
def end():
    raise SystemExit(3)
answer_requests({{"double": lambda number: 2 * number, "fail": lambda: 1 / 0, "end": end}})
"""


@pytest.fixture
def turns():
    return importlib.import_module("turns")


@pytest.fixture
def worker(turns, tmp_path):
    script = tmp_path / "other_side.py"
    script.write_text(ANSWERS.format(path=str(BENCHMARKS)))
    with turns.Worker([sys.executable, str(script)], environment=os.environ) as worker:
        yield worker


def test_sides_alternate_forwards_and_backwards(turns):
    order = []
    measures = {name: lambda name=name: order.append(name) or len(order) for name in "ab"}
    assert turns.alternate(measures, num_repeats=3) == {"a": [1, 4, 5], "b": [2, 3, 6]}
    assert order == list("abbaab")


def test_pairs_are_compared_in_the_order_they_were_measured(turns):
    assert turns.compare([1.0, 6.0], [2.0, 3.0]) == [0.5, 2.0]
    assert turns.sum_up([3.0, 1.0, 2.0]) == {"median": 2.0, "min": 1.0, "max": 3.0}


def test_worker_answers_over_a_pipe_that_libraries_cannot_print_to(worker):
    assert worker.ask("double", number=21) == 42


def test_worker_that_fails_says_how_and_goes_on(turns, worker):
    with pytest.raises(turns.WorkerError, match="other_side: ZeroDivisionError"):
        worker.ask("fail")
    assert worker.ask("double", number=1) == 2


def test_worker_that_ends_is_told_from_one_that_is_slow(turns, worker):
    with pytest.raises(turns.WorkerError, match="ended with exit code 3"):
        worker.ask("end")


def test_worker_that_does_not_answer_in_time_is_given_up(turns, tmp_path):
    script = tmp_path / "slow_side.py"
    script.write_text("import time; time.sleep(60)")
    slow = turns.Worker([sys.executable, str(script)], environment=os.environ)
    with pytest.raises(turns.WorkerError, match="slow_side gave no answer in 0 s"):
        slow.ask("double", number=1, timeout_s=0.1)
    slow.kill()
