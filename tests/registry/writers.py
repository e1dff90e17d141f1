"""What the processes of the tests do; imports no more than a writer or reader needs."""

import os
import signal
import sys
from pathlib import Path

from mlvlab_jax.errors import RegistryError
from mlvlab_jax.registry import ModelRegistry, file_store
from mlvlab_jax.registry.file_store import FileStore
from mlvlab_jax.registry.store import make_move


def register_all(root, package, versions, barrier, answers):
    """Registers each version at the moment the others do; answers with what came of each."""
    registry = ModelRegistry(FileStore(Path(root)))
    said = []
    for version in versions:
        barrier.wait()
        try:
            registry.register(name="m", version=version, package=Path(package), metadata={"pid": os.getpid()})
            said.append("registered")
        except RegistryError as error:
            said.append(str(error))
    answers.put((os.getpid(), said, "jax" in sys.modules))


def register_and_die(root, package, where):
    """Is killed at the step called `where`."""

    def die(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGKILL)

    place, name = {
        "before the copy": (file_store, "copy_package"),
        "before the record": (file_store, "write_json"),
        "before the rename": (Path, "rename"),
        "before the history": (file_store, "append_event"),
    }[where]
    setattr(place, name, die)
    ModelRegistry(FileStore(Path(root))).register(name="m", version="1.0.0", package=Path(package))


def promote_and_die(root):
    """Is killed between the move of an alias and its line in the history."""
    file_store.append_event = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
    move = make_move("promote", alias="champion", version="2.0.0", previous="1.0.0", details={})
    FileStore(Path(root)).set_alias("m", "champion", move)


def flip(root, count):
    """Moves the alias `count` times. Nothing is lost with the power here, so that nothing waits for the disk."""
    os.fsync = lambda descriptor: None
    store = FileStore(Path(root))
    previous = store.aliases("m").get("champion")
    for k in range(count):
        version = ("1.0.0", "2.0.0")[k % 2]
        move = make_move("promote", alias="champion", version=version, previous=previous, details={})
        store.set_alias("m", "champion", move)
        previous = version


def read(root, stop, answers):
    """Asks for the champion until told to stop; answers how often, and which versions came."""
    registry = ModelRegistry(FileStore(Path(root)))
    count, seen = 0, set()
    while not stop.is_set():
        seen.add(registry.get("m", "champion").version)
        count += 1
    answers.put((count, sorted(seen)))
