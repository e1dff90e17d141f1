"""A run goes on from its newest intact checkpoint, and ends as if nothing had happened."""

import os
import random
import shutil
import tempfile
from pathlib import Path

import pytest

from mlvlab_jax.engine.checkpoint import CheckpointStore
from mlvlab_jax.engine.experiment import make_experiment
from mlvlab_jax.engine.integrity import FORMS, NAME, find_damage, seal
from mlvlab_jax.engine.loop import run
from mlvlab_jax.engine.recovery import list_steps, recover
from mlvlab_jax.errors import CheckpointError, DiskError
from mlvlab_jax.trees import compute_digest
from tests.conftest import RecordingTracker, tiny_config
from tests.engine.disks import ReadOnly, broken, small_disk
from tests.engine.test_integrity import flip

CONFIG = tiny_config(checkpoint={"every_steps": 4})


class NotingTracker(RecordingTracker):
    def __init__(self):
        super().__init__()
        self.notes = []

    def note(self, text):
        self.notes.append(text)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run stopped at step 10, with checkpoints of 8 and 10, and one that was never stopped."""
    folder = tmp_path_factory.mktemp("runs")
    run(CONFIG, workdir=folder / "cut", tracker=RecordingTracker(), stop_requested=lambda step: step == 10)
    whole = run(CONFIG, workdir=folder / "whole", tracker=RecordingTracker())
    return folder / "cut", compute_digest(whole.state)


@pytest.fixture
def copy(stopped, tmp_path):
    return shutil.copytree(stopped[0], tmp_path / "copy")


def files_of(step):
    return sorted(path for path in step.rglob("*") if path.is_file())


def test_every_checkpoint_of_a_run_is_sealed(stopped):
    folder = stopped[0] / "checkpoints"
    steps = list_steps(folder)
    assert len(steps) >= 2
    assert steps[-1] == 10
    assert [find_damage(folder / str(step)) for step in steps] == [[] for _ in steps]
    assert recover(folder, pytest.fail) == 10


def test_a_bit_in_any_file_of_the_newest_step_sends_the_run_back_to_the_one_before(stopped, tmp_path):
    source = stopped[0] / "checkpoints"
    before = list_steps(source)[-2]
    names = [path.relative_to(source) for path in files_of(source / "10")]
    assert len(names) >= 8
    for number, name in enumerate(names):
        folder = shutil.copytree(source, tmp_path / str(number) / "checkpoints")
        size = (folder / name).stat().st_size
        flip(folder / name, 8 * (size // 2)) if size else (folder / name).write_bytes(b"x")
        told = []
        assert recover(folder, told.append) == before, name
        assert list_steps(folder)[-1] == before
        assert (tmp_path / str(number) / "quarantine" / "10").is_dir()
        assert len(told) == 1
        assert told[0].startswith("checkpoint 10 is damaged: ")
        assert told[0].endswith(f"going on from step {before}")


def test_the_run_that_goes_back_ends_bitwise_as_one_that_was_never_stopped(stopped, copy):
    state = max(files_of(copy / "checkpoints" / "10" / "state"), key=lambda path: path.stat().st_size)
    flip(state, 8 * (state.stat().st_size // 2))
    tracker = NotingTracker()
    resumed = run(CONFIG, workdir=copy, tracker=tracker)
    assert any("checkpoint 10 is damaged" in text for text in tracker.notes)
    assert tracker.info.first_step < 10
    assert compute_digest(resumed.state) == stopped[1]


def test_a_save_that_was_cut_off_is_passed_over(copy):
    (copy / "checkpoints" / "10" / NAME).unlink()
    (copy / "checkpoints" / "12.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    told = []
    assert recover(copy / "checkpoints", told.append) < 10
    assert "integrity.json: missing; the save was cut off" in told[0]


def test_where_none_is_intact_nothing_is_moved_and_nothing_started_afresh(copy):
    folder = copy / "checkpoints"
    steps = list_steps(folder)
    for step in steps:
        (folder / str(step) / "_CHECKPOINT_METADATA").unlink()
    with pytest.raises(CheckpointError, match=r"no checkpoint is intact:\n  step 10: _CHECKPOINT_METADATA: missing\n"):
        run(CONFIG, workdir=copy, tracker=RecordingTracker())
    assert list_steps(folder) == steps
    assert not (copy / "quarantine").exists()


def make_every(change):
    def damage(folder):
        for step in list_steps(folder):
            change(folder / str(step))

    return damage


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (
            shutil.rmtree,
            "no checkpoint is there, though goodput.jsonl says that step 10 was saved; bring the files back",
        ),
        (empty, "no checkpoint is there, though goodput.jsonl says that step 10 was saved; bring the files back"),
        (make_every(shutil.rmtree), "no checkpoint is there, though goodput.jsonl says that step 10 was saved; bring"),
        (
            make_every(empty),
            "no checkpoint is intact:\n  step 10: integrity.json: missing; the save was cut off\n  step 8: int",
        ),
        (
            make_every(lambda step: (step / NAME).unlink()),
            "no checkpoint is intact:\n  step 10: integrity.json: missing",
        ),
        (make_every(lambda step: shutil.rmtree(step / "state")), "no checkpoint is intact:\n  step 10: state/"),
        (
            make_every(lambda step: step.rename(f"{step}.bak")),
            "that step 10 was saved; what lies there: 10.bak; 5.bak; 8.bak; br",
        ),
        (
            make_every(lambda step: step.rename(f"{step}.orbax-checkpoint-tmp")),
            "no checkpoint is there, though goodput.jsonl says that step 10 was saved; bring",
        ),
    ],
)
def test_what_was_saved_and_is_gone_is_never_silently_begun_anew(damage, expected, copy):
    damage(copy / "checkpoints")
    with pytest.raises(CheckpointError) as error:
        recover(copy / "checkpoints", pytest.fail)
    assert expected in str(error.value)
    assert error.value.exit_code == 66
    assert not (copy / "quarantine").exists()


def test_a_first_save_that_was_cut_off_is_put_aside_and_the_run_begins_anew(copy):
    folder, ledger = copy / "checkpoints", copy / "goodput.jsonl"
    for step in list_steps(folder)[:-1]:
        shutil.rmtree(folder / str(step))
    (folder / "10" / NAME).unlink()
    ledger.write_text(ledger.read_text().replace('"saved": 10', '"saved": null'))
    told = []
    assert recover(folder, told.append) is None
    assert told[0].startswith("checkpoint 10 is damaged: integrity.json: missing; the save was cut off; moved to ")
    assert told[0].endswith("quarantine/10, nothing was saved before it")


def test_a_newer_format_is_neither_damaged_nor_passed_over(copy, monkeypatch):
    monkeypatch.setattr("mlvlab_jax.engine.integrity._FORMAT", 4)
    monkeypatch.setitem(FORMS, 4, FORMS[3])
    seal(copy / "checkpoints" / "10")
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="10: written by a newer mlvlab_jax, format 4; known here is 3; upgrade"):
        recover(copy / "checkpoints", pytest.fail)
    assert list_steps(copy / "checkpoints")[-1] == 10


def test_what_is_no_checkpoint_is_left_alone_and_named_once(copy):
    folder = copy / "checkpoints"
    (folder / "notes.txt").write_text("mine")
    for name in ("007", "8.bak", "of others"):
        (folder / name).mkdir()
    told = []
    assert recover(folder, told.append) == 10
    assert told == [f"{folder}: left alone, as they are no checkpoints: 007; 8.bak; notes.txt; of others"]
    tracker = NotingTracker()
    run(CONFIG, workdir=copy, tracker=tracker)
    assert tracker.info.first_step == 10
    assert len([text for text in tracker.notes if "left alone" in text]) == 1
    assert {path.name for path in folder.iterdir()} >= {"007", "8.bak", "notes.txt", "of others"}


def test_a_folder_without_checkpoints_starts_at_the_beginning(tmp_path):
    assert recover(tmp_path / "none", pytest.fail) is None
    (tmp_path / "notes").mkdir()
    (tmp_path / "5").write_text("a file")
    assert recover(tmp_path, lambda text: None) is None


def test_a_damaged_step_that_cannot_be_moved_away_ends_with_74(copy):
    with small_disk(copy / "mounted") as disk:
        folder = shutil.copytree(copy / "checkpoints", disk / "checkpoints")
        (folder / "10" / NAME).unlink()
        with broken(ReadOnly(), disk), pytest.raises(DiskError, match="cannot be moved to .*: Read-only file system"):
            recover(folder, pytest.fail)


TRUNCATED = [lambda path: path.write_bytes(path.read_bytes()[:-1]), lambda path: path.write_bytes(b""), Path.unlink]


@pytest.mark.parametrize("change", TRUNCATED, ids=["shorter", "empty", "removed"])
def test_any_file_that_is_cut_or_gone_is_found(change, stopped, tmp_path):
    source = stopped[0] / "checkpoints" / "10"
    for number, path in enumerate(files_of(source)):
        if not path.stat().st_size and change is not Path.unlink:
            continue
        folder = shutil.copytree(source, tmp_path / str(number))
        change(folder / path.relative_to(source))
        assert find_damage(folder), path


@pytest.mark.parametrize("bits", [3, pytest.param(12, marks=pytest.mark.slow)])
def test_any_bit_of_any_file_is_found(bits, stopped, tmp_path):
    folder = shutil.copytree(stopped[0] / "checkpoints" / "10", tmp_path / "10")
    found = total = 0
    for path in files_of(folder):
        whole = path.read_bytes()
        for bit in random.Random(path.name).sample(range(8 * len(whole)), bits if whole else 0):
            flip(path, bit)
            found, total = found + bool(find_damage(folder)), total + 1
            path.write_bytes(whole)
    assert found == total >= 8 * bits
    assert find_damage(folder) == []


def test_a_reader_refuses_a_damaged_step_and_names_the_others(copy):
    folder = copy / "checkpoints"
    flip(folder / "10" / "_CHECKPOINT_METADATA", 8)
    experiment = make_experiment(CONFIG)
    with CheckpointStore(folder, CONFIG.checkpoint, mode="min", read_only=True) as store:
        others = [step for step in store.steps() if step != 10]
        with pytest.raises(
            CheckpointError, match=r"10: the checkpoint is damaged: _CHECKPOINT_METADATA: other bytes"
        ) as e:
            store.restore(10, experiment.state, experiment.layout)
        assert str(e.value).endswith(f"there are also the steps {others}")
        store.restore(others[-1], experiment.state, experiment.layout)


def test_a_reader_leaves_what_is_being_saved_alone(copy):
    going_on = copy / "checkpoints" / "12.orbax-checkpoint-tmp"
    going_on.mkdir()
    with CheckpointStore(copy / "checkpoints", CONFIG.checkpoint, mode="min", read_only=True) as store:
        assert 12 not in store.steps()
    assert going_on.is_dir()
    with pytest.raises(CheckpointError, match="none: no such folder, so no checkpoint; check --workdir"):
        CheckpointStore(copy / "none", CONFIG.checkpoint, mode="min", read_only=True)


@pytest.fixture
def nobody(copy):
    """A copy of the run that a user without rights may look at, who this process is."""
    folder = Path(tempfile.mkdtemp())
    run_folder = shutil.copytree(copy, folder / "run")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    user = os.geteuid()

    def become():
        os.seteuid(65534 if user == 0 else user)
        return run_folder / "checkpoints"

    yield become
    os.seteuid(user)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    shutil.rmtree(folder)


def test_what_may_not_be_read_is_said_and_never_begun_anew(nobody):
    folder = nobody()
    os.seteuid(os.getuid())
    for step in list_steps(folder):
        (folder / str(step) / "_CHECKPOINT_METADATA").chmod(0)
    nobody()
    with pytest.raises(
        CheckpointError, match="no checkpoint is intact:\n  step 10: _CHECKPOINT_METADATA: cannot be read: Perm"
    ):
        recover(folder, pytest.fail)
    os.seteuid(os.getuid())
    folder.chmod(0)
    nobody()
    with pytest.raises(
        CheckpointError, match="checkpoints: cannot be read: Permission denied; expected a folder of check"
    ):
        recover(folder, pytest.fail)
