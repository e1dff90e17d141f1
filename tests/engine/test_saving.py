"""Saves on disks that fill up or refuse: nothing good is lost, nothing half done stays, and it is said."""

import re
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlvlab_jax.engine import faults, saving
from mlvlab_jax.engine.checkpoint import CheckpointStore
from mlvlab_jax.engine.integrity import find_damage
from mlvlab_jax.engine.recovery import list_steps
from mlvlab_jax.errors import DiskError
from tests.conftest import tiny_config
from tests.engine.conftest import make_state
from tests.engine.disks import FAULTS, Full, broken, fill, small_disk

#: TensorStore answers a loop of asyncio that Orbax has closed after an error.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. None:pytest.PytestUnraisableExceptionWarning")

WEIGHTS = np.random.default_rng(0).normal(size=(64, 1024)).astype(np.float32)
STATE = make_state(weights=jnp.asarray(WEIGHTS))


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk") as folder:
        yield folder


class Opened:
    """A store, and what it said."""

    def __init__(self, folder, **config):
        self.notes, self.saved = [], []
        config = tiny_config(checkpoint=config).checkpoint
        self.store = CheckpointStore(folder, config, mode="min", note=self.notes.append, saved=self.saved.append)
        self.folder = folder

    def save(self, step, *, monitored=None):
        """One save as the loop makes it: begun, and looked after until it is over."""
        self.store.save(STATE, {"step": step}, step=step, monitored=monitored)
        end = time.monotonic() + 30
        while self.store._writer._sealing is not None and time.monotonic() < end:
            self.store.look()
            time.sleep(0.005)

    def check_intact(self, *steps):
        assert list_steps(self.folder) == list(steps)
        assert self.store.steps() == list(steps)
        assert [find_damage(self.folder / str(step)) for step in steps] == [[] for _ in steps]
        assert not list(self.folder.glob("*tmp*"))


@pytest.fixture
def opened(disk):
    opened = Opened(disk / "checkpoints")
    with opened.store:
        yield opened


@pytest.mark.parametrize("looked_at", ["before", "during"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_what_the_disk_refuses_is_told_at_once_and_loses_nothing(fault, looked_at, disk, opened, monkeypatch):
    if looked_at == "during":  # what the look at the free space before it cannot foresee
        monkeypatch.setattr(saving, "_MARGIN_BYTES", -(10**9))
    opened.save(1)
    opened.save(2)
    with broken(fault, disk):
        opened.save(3)
        opened.save(4)
        told = list(opened.notes)
    assert opened.saved == [1, 2]
    assert [re.findall("step [0-9]+ was not saved: |failure [0-9] in a row", text) for text in told] == [
        ["step 3 was not saved: ", "failure 1 in a row"],
        ["step 4 was not saved: ", "failure 2 in a row"],
    ]
    assert all(f"{fault.words} (" in text and "MB free" in text for text in told)
    opened.save(5)
    opened.check_intact(2, 5)
    with broken(fault, disk):  # and the count starts anew
        opened.save(6)
        opened.save(7)
    opened.save(8)
    opened.store.wait()
    opened.check_intact(5, 8)
    restored, progress = opened.store.restore(8, STATE, jax.tree.map(lambda x: x.sharding, STATE))
    np.testing.assert_array_equal(restored.variables.params["weights"], WEIGHTS)
    assert progress == {"step": 8}
    assert not [thread for thread in threading.enumerate() if "array_type" in thread.name or "json_ch" in thread.name]


@pytest.mark.parametrize("looked_at", ["before", "during"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_the_third_failure_in_a_row_ends_the_run(fault, looked_at, disk, opened, monkeypatch):
    if looked_at == "during":
        monkeypatch.setattr(saving, "_MARGIN_BYTES", -(10**9))
    opened.save(1)
    opened.save(2)
    with broken(fault, disk):
        opened.save(3)
        opened.save(4)
        with pytest.raises(DiskError) as error:
            opened.save(5)
    assert error.value.exit_code == 74
    assert f"3 saves in a row failed, the last of step 5: {fault.words} (" in str(error.value)
    assert "MB free" in str(error.value)
    assert "the newest checkpoint there is of step 2; free some space" in str(error.value)
    opened.check_intact(1, 2)


def test_too_little_room_is_seen_before_anything_is_written(disk, opened, monkeypatch):
    monkeypatch.setattr(opened.store._manager, "save", lambda *args, **kwargs: pytest.fail("begun"))
    fill(disk, but=1_200_000)  # the arrays take 262,156 bytes; with what goes with them 1.31 MB are asked for
    opened.save(1)
    assert re.search(
        r"step 1 was not saved: No space left on device \(1\.20 MB free, 1\.31 MB needed\)", opened.notes[0]
    )
    assert not list((disk / "checkpoints").iterdir())


def test_the_last_state_must_be_on_disk(disk, opened):
    opened.save(1)
    with broken(Full(), disk):
        opened.store.save(STATE, {}, step=2, monitored=None)
        with pytest.raises(DiskError, match=r"1 saves in a row failed, the last of step 2: No space left on device"):
            opened.store.wait()
    opened.store.save(STATE, {}, step=2, monitored=None)  # the step that failed is not taken for one that is there
    opened.store.wait()
    opened.check_intact(1, 2)


def test_what_cannot_be_sealed_does_not_count_and_nothing_is_deleted_for_it(tmp_path, monkeypatch):
    monkeypatch.setenv(faults.VARIABLE, "seal:3=error:ENOSPC,seal:4=error:ENOSPC")
    faults._planned.cache_clear()
    try:
        opened = Opened(tmp_path, keep_last=2)
        with opened.store:
            opened.save(1, monitored=0.1)
            opened.save(2, monitored=0.2)
            opened.save(3, monitored=0.0)
            opened.save(4, monitored=0.0)
            opened.check_intact(1, 2)
            assert len(opened.notes) == 2
            opened.save(5, monitored=0.3)
            opened.store.wait()
            opened.check_intact(1, 2, 5)  # the best, and the last two
            assert opened.saved == [1, 2, 5]
    finally:
        monkeypatch.undo()
        faults._planned.cache_clear()


def test_an_error_that_is_not_the_disks_is_passed_on(opened, monkeypatch):
    def fail(*args, **kwargs):
        raise ValueError("of another kind")

    monkeypatch.setattr(opened.store._manager, "save", fail)
    with pytest.raises(ValueError, match="of another kind"):
        opened.save(1)


def test_steps_that_are_kept_for_good_stay(tmp_path):
    opened = Opened(tmp_path, keep_every_steps=4)
    with opened.store:
        for step in range(1, 12):
            opened.save(step, monitored=abs(step - 5.0))
    assert list_steps(tmp_path) == [4, 5, 8, 10, 11]
