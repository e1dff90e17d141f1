"""Whole runs on disks that fill up and refuse, in the same process: the training's numbers never change."""

import json
import random
import shutil

import pytest

from mlvlab_jax.engine import saving
from mlvlab_jax.engine.integrity import find_damage
from mlvlab_jax.engine.loop import run
from mlvlab_jax.engine.recovery import list_steps
from mlvlab_jax.errors import DiskError
from mlvlab_jax.trees import compute_digest
from tests.conftest import tiny_config
from tests.engine.disks import FAULTS, Full, small_disk
from tests.engine.test_recovery import NotingTracker

pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. None:pytest.PytestUnraisableExceptionWarning")

CONFIG = tiny_config(checkpoint={"every_steps": 2})


class Breaking:
    """Breaks the disk at one step and mends it at another; as a run asks it whether to stop."""

    def __init__(self, fault, disk, *, first, last):
        self._fault, self._disk, self._first, self._last = fault, disk, first, last
        self._broken = False

    def __call__(self, step):
        if step >= self._first and not self._broken and step < self._last:
            self._fault.begin(self._disk)
            self._broken = True
        if step >= self._last:
            self.mend()
        return False

    def mend(self):
        if self._broken:
            self._fault.end(self._disk)
            self._broken = False


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    tracker = NotingTracker()
    result = run(CONFIG, workdir=tmp_path_factory.mktemp("whole") / "run", tracker=tracker)
    return compute_digest(result.state), tracker.records


def steps_of(records):
    """Without the test at the end, which is of the best state that could be saved."""
    return [step for step, values in records if not any(name.startswith("test/") for name in values)]


def run_on_a_breaking_disk(folder, whole, fault, *, first, last):
    tracker = NotingTracker()
    with small_disk(folder / "checkpoints") as disk:
        breaking = Breaking(fault, disk, first=first, last=last)
        try:
            result = run(CONFIG, workdir=folder, tracker=tracker, stop_requested=breaking)
        finally:
            breaking.mend()
        steps = list_steps(disk)
        assert steps[-1] == 18
        assert [find_damage(disk / str(step)) for step in steps] == [[] for _ in steps]
        assert not list(disk.glob("*tmp*"))
    assert compute_digest(result.state) == whole[0]
    assert steps_of(tracker.records) == steps_of(whole[1])
    return [text for text in tracker.notes if "was not saved" in text]


def test_a_disk_that_is_full_for_a_while_changes_no_number(tmp_path, whole, monkeypatch):
    # The save of step 8 must fail, that of step 6 may still be going on, and that of step 9 finds room.
    told = run_on_a_breaking_disk(tmp_path, whole, Full(), first=7, last=8)
    assert 1 <= len(told) <= 2
    assert all("No space left on device" in text for text in told)
    assert not (tmp_path / "crash.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("looked_at", ["before", "during"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_any_fault_of_a_disk_for_a_while_changes_no_number(fault, looked_at, tmp_path, whole, monkeypatch):
    if looked_at == "during":
        monkeypatch.setattr(saving, "_MARGIN_BYTES", -(10**9))
    first = random.Random(f"{type(fault)} {looked_at}").randrange(2, 16, 2)
    run_on_a_breaking_disk(tmp_path, whole, fault, first=first, last=first + 1)


def test_a_disk_that_stays_full_ends_the_run_and_the_same_command_goes_on(tmp_path, whole):
    tracker = NotingTracker()
    with small_disk(tmp_path / "run" / "checkpoints") as disk:
        breaking = Breaking(Full(), disk, first=7, last=99)
        with pytest.raises(
            DiskError, match=r"3 saves in a row failed, the last of step (1[0-9]): .* of step [4-8]; free"
        ):
            run(CONFIG, workdir=tmp_path / "run", tracker=tracker, stop_requested=breaking)
        crash = json.loads((tmp_path / "run" / "crash.json").read_text())
        assert (crash["error"]["kind"], crash["error"]["exit_code"], crash["phase"]) == ("DiskError", 74, "checkpoint")
        kept = list_steps(disk)
        assert [find_damage(disk / str(step)) for step in kept] == [[] for _ in kept]
        breaking.mend()
        result = run(CONFIG, workdir=tmp_path / "run", tracker=NotingTracker())
        assert compute_digest(result.state) == whole[0]
        assert not list(disk.glob("*tmp*"))
        assert not (tmp_path / "run" / "crash.json").exists()


def test_a_run_whose_last_state_cannot_be_saved_has_not_finished(tmp_path, whole):
    with small_disk(tmp_path / "run" / "checkpoints") as disk:
        breaking = Breaking(Full(), disk, first=17, last=99)
        with pytest.raises(DiskError, match=r"saves in a row failed, the last of step 18: "):
            run(CONFIG, workdir=tmp_path / "run", tracker=NotingTracker(), stop_requested=breaking)
        assert not (tmp_path / "run" / "summary.json").exists()
        breaking.mend()
        assert compute_digest(run(CONFIG, workdir=tmp_path / "run", tracker=NotingTracker()).state) == whole[0]


def test_a_moved_run_folder_is_gone_on_with_where_it_is(tmp_path, whole):
    run(CONFIG, workdir=tmp_path / "here" / "run", tracker=NotingTracker(), stop_requested=lambda step: step == 9)
    shutil.move(tmp_path / "here", tmp_path / "there")
    tracker = NotingTracker()
    result = run(CONFIG, workdir=tmp_path / "there" / "run", tracker=tracker)
    assert tracker.info.first_step == 9
    assert compute_digest(result.state) == whole[0]
    assert not (tmp_path / "here").exists()
