import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlvlab_jax.errors import DiskError, PackageError, RegistryError
from mlvlab_jax.registry import ModelRegistry, copies, file_store
from mlvlab_jax.registry.file_store import FileStore
from mlvlab_jax.registry.history import append_event, read_events
from mlvlab_jax.registry.store import make_move
from tests.registry import writers
from tests.registry.packages import make_package

SPAWN = multiprocessing.get_context("spawn")


class Model:
    pass


@pytest.fixture
def package(tmp_path):
    return make_package(tmp_path / "package")


@pytest.fixture
def root(tmp_path):
    return tmp_path / "registry"


def files_of(root):
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def run(target, *args):
    process = SPAWN.Process(target=target, args=args)
    process.start()
    process.join(60)
    return process.exitcode


@pytest.mark.parametrize("with_package", [False, True])
def test_of_eight_processes_registering_a_version_exactly_one_wins(with_package, root, package):
    versions = [f"1.{k}.0" for k in range(6)]
    barrier, answers = SPAWN.Barrier(8), SPAWN.Queue()
    target, args = writers.register_all, (str(root), str(package), versions, barrier, answers)
    processes = [SPAWN.Process(target=target, args=args) for _ in range(8)]
    for process in processes:
        process.start()
    said = {pid: texts for pid, texts, has_jax in (answers.get(timeout=120) for _ in processes) if not has_jax}
    for process in processes:
        process.join(60)
    assert len(said) == 8
    registry = ModelRegistry(FileStore(root))
    for k, version in enumerate(versions):
        winners = [pid for pid, texts in said.items() if texts[k] == "registered"]
        losers = [texts[k] for texts in said.values() if texts[k] != "registered"]
        assert winners == [registry.get("m", version).metadata["pid"]]
        assert (
            losers
            == [f"m {version}: exists in {root}, and a version never changes; expected a new one; raise the number"] * 7
        )
        registry.verify("m", version)
    assert FileStore(root).versions("m") == versions
    assert sorted(event.version for event in registry.history("m")) == sorted(versions)
    assert list((root / "m" / "staging").iterdir()) == []


@pytest.mark.parametrize("where", ["before the copy", "before the record", "before the rename", "before the history"])
def test_a_crash_leaves_the_whole_version_or_none_and_does_not_block_the_next(where, root, package):
    assert run(writers.register_and_die, str(root), str(package), where) == -9
    registry = ModelRegistry(FileStore(root))
    if where == "before the history":
        registry.verify("m", "1.0.0")
        assert [event.version for event in registry.history("m")] == ["1.0.0"]
        with pytest.raises(RegistryError, match="exists"):
            registry.register(name="m", version="1.0.0", package=package)
    else:
        assert (registry.list(), FileStore(root).history("m")) == ((), [])
        registry.register(name="m", version="1.0.0", package=package)
        registry.verify("m", "1.0.0")
    registry.register(name="m", version="1.1.0", package=package)
    assert [record.version for record in registry.list("m")] == ["1.0.0", "1.1.0"]
    assert list((root / "m" / "staging").iterdir()) == []


def test_a_crash_between_a_move_and_its_line_loses_neither(root):
    store = FileStore(root)
    registry = ModelRegistry(store)
    for version in ("1.0.0", "2.0.0"):
        registry.register(name="m", version=version, model_class=Model)
    store.set_alias("m", "champion", make_move("promote", alias="champion", version="1.0.0", previous=None, details={}))
    assert run(writers.promote_and_die, str(root)) == -9
    moves = ["1.0.0", "2.0.0"]
    assert [event.version for event in registry.history("m")[2:]] == moves
    assert registry.rollback("m").version == "1.0.0"
    moves.append("1.0.0")
    assert [event.version for event in registry.history("m")[2:]] == moves
    assert [event.version for event in read_events(root / "m" / "history.jsonl")[2:]] == moves


@pytest.mark.parametrize("count", [250, pytest.param(10_000, marks=pytest.mark.slow)])
def test_readers_always_see_a_valid_alias_while_it_moves(count, root):
    registry = ModelRegistry(FileStore(root))
    for version in ("1.0.0", "2.0.0"):
        registry.register(name="m", version=version, model_class=Model)
    assert run(writers.flip, str(root), 1) == 0
    stop, answers = SPAWN.Event(), SPAWN.Queue()
    readers = [SPAWN.Process(target=writers.read, args=(str(root), stop, answers)) for _ in range(2)]
    for reader in readers:
        reader.start()
    assert run(writers.flip, str(root), count) == 0
    stop.set()
    for _ in readers:
        num_reads, seen = answers.get(timeout=60)
        assert num_reads > 100
        assert set(seen) <= {"1.0.0", "2.0.0"}
    assert [reader.join(60) or reader.exitcode for reader in readers] == [0, 0]
    assert len(registry.history("m")) == 2 + 1 + count


def test_two_who_move_an_alias_at_once_do_not_overwrite_each_other(root):
    store = FileStore(root)
    for version in ("1.0.0", "2.0.0", "3.0.0"):
        ModelRegistry(store).register(name="m", version=version, model_class=Model)
    first, second = (
        make_move("promote", alias="champion", version=version, previous=None, details={})
        for version in ("1.0.0", "2.0.0")
    )
    store.set_alias("m", "champion", first)
    with pytest.raises(RegistryError, match="m@champion: points to 1.0.0; expected nothing"):
        store.set_alias("m", "champion", second)
    assert store.aliases("m") == {"champion": "1.0.0"}


def test_an_alias_to_nothing_is_refused(root):
    store = FileStore(root)
    ModelRegistry(store).register(name="m", version="1.0.0", model_class=Model)
    before = files_of(root)
    move = make_move("promote", alias="champion", version="9.0.0", previous=None, details={})
    with pytest.raises(RegistryError, match=r"m has no version 9.0.0; there are 1.0.0"):
        store.set_alias("m", "champion", move)
    assert files_of(root) == before


def test_the_package_is_copied_read_only_and_later_changes_of_the_original_do_not_matter(root, package):
    registry = ModelRegistry(FileStore(root))
    registry.register(name="m", version="1.0.0", package=package)
    (package / "config.json").write_text("{}")
    copy = registry.open_package("m", "1.0.0")
    assert {path.stat().st_mode & 0o222 for path in copy.rglob("*") if path.is_file()} == {0}
    registry.verify("m", "1.0.0")


def flip_bit(path):
    path.write_bytes(path.read_bytes().swapcase())


def break_link(package):
    (package / "labels.json").unlink()
    (package / "labels.json").symlink_to("/etc/passwd")


BROKEN = {
    "missing": lambda package: (package / "labels.json").unlink(),
    "extra": lambda package: (package / "extra.py").write_text("import os"),
    "altered": lambda package: flip_bit(package / "README.md"),
    "link": break_link,
    "outside": lambda package: (package / "manifest.json").write_text(
        (package / "manifest.json").read_text().replace('"labels.json"', '"../labels.json"')
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_package_that_is_not_whole_is_refused_and_nothing_written(case, root, package):
    BROKEN[case](package)
    with pytest.raises(PackageError):
        ModelRegistry(FileStore(root)).register(name="m", version="1.0.0", package=package)
    assert not root.exists()


def test_a_package_that_changes_while_it_is_copied_is_refused(root, package, monkeypatch):
    copyfile = copies.shutil.copyfile

    def copy_and_alter(source, target, **kwargs):
        copyfile(source, target, **kwargs)
        if target.name == "README.md":
            flip_bit(target)

    monkeypatch.setattr(copies.shutil, "copyfile", copy_and_alter)
    registry = ModelRegistry(FileStore(root))
    with pytest.raises(PackageError, match="was altered"):
        registry.register(name="m", version="1.0.0", package=package)
    assert files_of(root) == ["m/.lock"]
    assert registry.list() == ()


def test_a_full_disk_is_one_message_and_leaves_nothing(root, package, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(copies.shutil, "copyfile", full)
    with pytest.raises(DiskError, match="No space left on device; nothing was registered"):
        ModelRegistry(FileStore(root)).register(name="m", version="1.0.0", package=package)
    assert files_of(root) == ["m/.lock"]


def test_a_disk_that_is_full_when_the_line_is_due_does_not_undo_the_change(root, monkeypatch):
    store = FileStore(root)
    registry = ModelRegistry(store)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(file_store, "append_event", full)
    registry.register(name="m", version="1.0.0", model_class=Model)
    store.set_alias("m", "champion", make_move("promote", alias="champion", version="1.0.0", previous=None, details={}))
    assert not (root / "m" / "history.jsonl").exists()
    assert [event.action for event in registry.history("m")] == ["register", "promote"]
    move = make_move("promote", alias="champion", version="1.0.0", previous="1.0.0", details={})
    with pytest.raises(DiskError, match="nothing was registered or moved"):
        store.set_alias("m", "champion", move)  # or the line before would be lost
    monkeypatch.undo()
    store.set_alias("m", "champion", move)
    assert [event.action for event in registry.history("m")] == ["register", "promote", "promote"]


def test_what_is_altered_in_the_registry_is_found(root, package):
    registry = ModelRegistry(FileStore(root))
    registry.register(name="m", version="1.0.0", package=package)
    copy = registry.open_package("m", "1.0.0")
    (copy / "README.md").chmod(0o644)
    flip_bit(copy / "README.md")
    with pytest.raises(PackageError, match=r"README.md: was altered"):
        registry.verify("m", "1.0.0")


def test_another_whole_package_in_its_place_is_found(root, package, tmp_path):
    registry = ModelRegistry(FileStore(root))
    registry.register(name="m", version="1.0.0", package=package)
    copy = registry.open_package("m", "1.0.0")
    copy.rename(tmp_path / "away")
    make_package(copy, seed=7)
    with pytest.raises(PackageError, match="as registered for m 1.0.0"):
        registry.verify("m", "1.0.0")


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("version.json", lambda registry: registry.get("m", "1.0.0")),
        ("aliases.json", lambda registry: registry.get("m", "champion")),
        ("history.jsonl", lambda registry: registry.history("m")),
    ],
)
@pytest.mark.parametrize("text", ['{"half": \n', "[]\n", "{}\n", '{"aliases": {}, "last": {}, "more": 1}\n'])
def test_a_file_that_is_not_ours_is_named(name, read, text, root):
    store = FileStore(root)
    registry = ModelRegistry(store)
    registry.register(name="m", version="1.0.0", model_class=Model)
    store.set_alias("m", "champion", make_move("promote", alias="champion", version="1.0.0", previous=None, details={}))
    (path,) = root.rglob(name)
    path.write_text(text)
    with pytest.raises(RegistryError, match=name):
        read(registry)


def test_a_root_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    registry = ModelRegistry(FileStore(tmp_path / "file"))
    with pytest.raises(RegistryError, match="Not a directory"):
        registry.list()
    with pytest.raises(RegistryError, match="Not a directory"):
        registry.register(name="m", version="1.0.0", model_class=Model)


def test_foreign_files_in_the_folder_are_passed_over(root):
    registry = ModelRegistry(FileStore(root))
    registry.register(name="m", version="1.0.0", model_class=Model)
    (root / ".git").mkdir()
    (root / "notes.txt").write_text("")
    (root / "empty").mkdir()
    (root / "m" / "versions" / "old backup").mkdir()
    assert [record.version for record in registry.list()] == ["1.0.0"]


def test_a_line_that_a_crash_cut_off_is_taken_away(tmp_path):
    path = tmp_path / "history.jsonl"
    moves = [make_move("promote", alias="a", version=f"{k}.0.0", previous=None, details={}) for k in range(3)]
    append_event(path, moves[0])
    whole = path.read_bytes()
    append_event(path, moves[1])
    torn = path.read_bytes()[:-20]
    path.write_bytes(torn)
    assert read_events(path) == moves[:1]
    append_event(path, moves[2])
    assert read_events(path) == [moves[0], moves[2]]
    assert path.read_bytes().startswith(whole)


def test_readers_and_writers_take_no_jax(root, package):
    code = (
        "import sys; from pathlib import Path; from mlvlab_jax.registry import ModelRegistry;"
        "from mlvlab_jax.registry.file_store import FileStore;"
        f"registry = ModelRegistry(FileStore(Path({str(root)!r})));"
        f"registry.register(name='m', version='1.0.0', package=Path({str(package)!r}));"
        "registry.promote('m', '1.0.0'); registry.verify('m', 'champion');"
        "sys.exit(sum(m in sys.modules for m in ('jax', 'mlflow')))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = [json.loads(line) for line in (root / "m" / "history.jsonl").read_text().splitlines()][1:]
    assert (line["action"], line["version"], line["previous"]) == ("promote", "1.0.0", None)
    assert line["who"].endswith(f"@{os.uname().nodename}")
    assert [gate["name"] for gate in line["details"]["gates"]] == ["digests", "data version", "champion", "latency"]
    assert line["details"]["policy"]["tolerance_points"] == 2.0


def test_the_default_is_a_folder_below_experiments(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    ModelRegistry().register(name="m", version="1.0.0", model_class=Model)
    assert Path("experiments/registry/m/versions/1.0.0/version.json").is_file()
    assert Path("experiments/registry") == file_store.DEFAULT_ROOT
