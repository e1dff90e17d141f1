import json
import threading

import pytest

from mlvlab_jax.tracking.delivery import Delivery
from mlvlab_jax.tracking.lasting import LastingFile


class FakeStore:
    """A store that answers as `script` says, call by call, and that takes a record only once, as MLflow does."""

    def __init__(self, script=()):
        self._script = list(script)
        self.records = {}
        self.end = 0
        self.is_lost = False

    def connect(self):
        self.is_lost = False
        self._answer([])
        return self.end

    def lost(self):
        return self.is_lost

    def deliver(self, records, *, end):
        if self.is_lost:
            raise ConnectionError("nobody there")
        self._answer(records)
        self._take(records)
        self.end = end

    def _take(self, records):
        for record in records:
            self.records[record["n"]] = record

    def _answer(self, records):
        what = self._script.pop(0) if self._script else "ok"
        if what == "refuse":
            raise ConnectionError("not now")
        if what == "half":  # the answer is lost on its way, after a part was written
            self._take(records[: len(records) // 2])
            raise TimeoutError("no answer")


def write(journal, numbers):
    for n in numbers:
        journal.append(json.dumps({"n": n, "pad": "x" * 100}).encode() + b"\n")


@pytest.fixture
def journal(tmp_path):
    file = LastingFile(tmp_path / "journal")
    yield file
    file.close()


@pytest.mark.parametrize(
    "script", [(), ("refuse",), ("ok", "refuse"), ("ok", "half", "refuse", "ok", "half"), ("refuse", "refuse")]
)
def test_everything_arrives_once_and_in_order_whatever_fails(script, journal, monkeypatch, caplog):
    monkeypatch.setattr("mlvlab_jax.tracking.delivery._PIECE_BYTES", 2048)
    monkeypatch.setattr("mlvlab_jax.tracking.delivery._FIRST_RETRY_S", 0.01)
    store = FakeStore(script)
    write(journal, range(50))
    delivery = Delivery(journal, store, interval_s=0.01)
    write(journal, range(50, 100))
    assert delivery.finish(timeout_s=30) is None
    assert list(store.records) == list(range(100))
    assert store.end == journal.path.stat().st_size
    said = [record.getMessage() for record in caplog.records]
    assert len([line for line in said if "tracking waits for its store" in line]) == len(
        [line for line in said if "has its store again" in line]
    )
    assert bool(said) == bool(script)


def test_appending_goes_on_while_the_store_hangs(journal):
    entered, released = threading.Event(), threading.Event()

    class Hanging(FakeStore):
        def deliver(self, records, *, end):
            entered.set()
            released.wait(30)
            super().deliver(records, end=end)

    store = Hanging()
    write(journal, [0])
    delivery = Delivery(journal, store, interval_s=0.01)
    assert entered.wait(30)
    write(journal, range(1, 1000))
    assert not store.records
    reason = delivery.finish(timeout_s=0.05)
    assert reason == "there was not enough time"
    released.set()


def test_a_store_that_was_lost_gets_everything_again(journal):
    store = FakeStore()
    write(journal, range(10))
    first = Delivery(journal, store, interval_s=0.01)
    assert first.finish(timeout_s=30) is None
    second = Delivery(journal, store, interval_s=0.01)
    store.records, store.end, store.is_lost = {}, 0, True
    write(journal, range(10, 12))
    assert second.finish(timeout_s=30) is None
    assert list(store.records) == list(range(12))


def test_what_is_written_while_the_thread_finds_nothing_is_delivered_at_the_end(journal, monkeypatch):
    store, ended = FakeStore(), []
    read, looked = journal.read, threading.Event()

    def read_slowly(*arguments):
        found = read(*arguments)
        if not looked.is_set():
            looked.set()
            closing.wait(10)
        return found

    closing = threading.Event()
    monkeypatch.setattr(journal, "read", read_slowly)
    delivery = Delivery(journal, store, interval_s=0.01)
    assert looked.wait(10)
    write(journal, range(3))
    ending = threading.Thread(target=lambda: ended.append(delivery.finish(timeout_s=30)))
    ending.start()
    ending.join(0.2)
    closing.set()
    ending.join()
    assert ended == [None]
    assert list(store.records) == [0, 1, 2]


def test_a_line_longer_than_a_piece_arrives_whole(journal, monkeypatch):
    monkeypatch.setattr("mlvlab_jax.tracking.delivery._PIECE_BYTES", 16)
    store = FakeStore()
    write(journal, range(3))
    assert Delivery(journal, store, interval_s=0.01).finish(timeout_s=30) is None
    assert [len(record["pad"]) for record in store.records.values()] == [100] * 3


def test_what_is_in_the_way_at_the_end_is_named(journal):
    write(journal, [0])
    delivery = Delivery(journal, FakeStore(["refuse"] * 100), interval_s=0.01)
    reason = delivery.finish(timeout_s=0.5)
    assert isinstance(reason, ConnectionError)
