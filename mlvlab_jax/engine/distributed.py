"""Several processes as one run: joining them, and what only the first of them does.

jax is imported only where there is more than one process, or where it has been imported already.
"""

import contextlib
import importlib.util
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from mlvlab_jax import errors
from mlvlab_jax.engine.roll_call import call_roll
from mlvlab_jax.errors import ConfigError, JoinError, MlvlabError, RunFolderError

T = TypeVar("T")

#: Bytes of each process sent at a time: one shape, so one compiled program.
_CHUNK = 1 << 14
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")


class Place(NamedTuple):
    """Where a process was told to join.

    coordinator: (host, port) of process 0, known to all. num_processes: processes in all. process_id: this one, from 0.
    """

    coordinator: tuple[str, int]
    num_processes: int
    process_id: int


def parse_place(coordinator: str | None, *, num_processes: int | None, process_id: int | None) -> Place | None:
    """The values of --coordinator HOST:PORT, --num-processes and --process-id; None where none was given.

    Raises:
        ConfigError: Some are missing, or are no address or number that fits.
    """
    given = {"--coordinator": coordinator, "--num-processes": num_processes, "--process-id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == 3:
        return None
    if coordinator is None or num_processes is None or process_id is None:
        if given == {"--coordinator": None, "--num-processes": 1, "--process-id": None}:
            return Place(("", 0), 1, 0)
        raise ConfigError(
            f"{' and '.join(missing)} missing; expected --coordinator, --num-processes and --process-id together, "
            "none of them where the cluster tells, or --num-processes 1 alone for a run of its own; add the rest"
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ConfigError(f"--coordinator {coordinator!r}: expected HOST:PORT of process 0, such as node0:5000")
    if num_processes < 1 or not 0 <= process_id < num_processes:
        raise ConfigError(
            f"--process-id {process_id} of --num-processes {num_processes}: expected 0 to one less than the number"
        )
    return Place((host.strip("[]"), int(port)), num_processes, process_id)


def detect_cluster(environment: Mapping[str, str]) -> str | None:
    """Which process of which cluster this is, by the cluster's variables; None where it is alone for all they say.

    Raises:
        ConfigError: A Kubernetes job whose other pods cannot be found.
    """
    if all(name in environment for name in _SLURM) and int(environment["SLURM_NTASKS"]) > 1:
        return f"process {environment['SLURM_PROCID']} of {environment['SLURM_NTASKS']} (Slurm)"
    if int(environment.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        rank, count = environment.get("OMPI_COMM_WORLD_RANK"), environment["OMPI_COMM_WORLD_SIZE"]
        return f"process {rank} of {count} (Open MPI)"
    workers = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES", "")
    if not workers and _is_tpu_machine():
        return "a process (Cloud TPU)"
    if "," in workers:
        return f"process {environment.get('TPU_WORKER_ID', '?')} of {workers.count(',') + 1} (Cloud TPU)"
    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        if importlib.util.find_spec("kubernetes") is None:
            raise ConfigError(
                "this is a pod of an indexed Kubernetes job, and without the package 'kubernetes' the others cannot be "
                "found; pip install 'jax[k8s]', or give --coordinator, --num-processes and --process-id, or "
                "--num-processes 1 where there are no others"
            )
        return f"process {environment['JOB_COMPLETION_INDEX']} (Kubernetes)"
    return None


def _is_tpu_machine() -> bool:
    devices = Path("/dev")
    chips = any(devices.glob("accel*")) or any(devices.glob("vfio/[0-9]*"))
    return chips and importlib.util.find_spec("libtpu") is not None


def join(place: Place | None, *, timeout_s: float) -> None:
    """Makes this process one of those of the run; nothing happens where it is alone, or has joined already.

    Must come before anything asks jax for devices.

    Args:
        place: What the flags say; None asks the environment, as Slurm, Open MPI, Kubernetes and Cloud TPU set it.
        timeout_s: Seconds to wait for the others.

    Raises:
        ConfigError: As in `detect_cluster`.
        JoinError: Not all processes came in time.
    """
    cluster = detect_cluster(os.environ) if place is None and not is_joined() else None
    if is_joined() or (cluster is None and (place is None or place.num_processes == 1)):
        return
    arguments: dict[str, Any] = {}
    if place is not None:
        (host, port), num_processes, process_id = place
        call_roll(place.coordinator, process_id=process_id, num_processes=num_processes, timeout_s=timeout_s)
        shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        arguments = {"coordinator_address": shown, "num_processes": num_processes, "process_id": process_id}
        arguments["cluster_detection_method"] = "deactivate"
    who = f"process {place.process_id} of {place.num_processes}" if place else f"{cluster}"
    _initialize(arguments, who, timeout_s)


def _initialize(arguments: dict[str, Any], who: str, timeout_s: float) -> None:
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    reason = f"{who} waited {timeout_s:g} s for the others to join; look at their logs, or give --join-timeout-s more"
    try:
        with _given_up_after(timeout_s, reason):
            # jax ends the whole process when its own time is up: ours comes first.
            jax.distributed.initialize(**arguments, initialization_timeout=int(timeout_s) + 60)
    except ValueError:
        if arguments:
            raise
        return  # jax knows of no cluster here: a TPU machine of its own
    except RuntimeError as error:
        first = str(error).strip().partition("\n")[0]
        raise JoinError(f"{who} could not join the others: {first}; expected all to start together") from error


@contextlib.contextmanager
def _given_up_after(timeout_s: float, reason: str) -> Iterator[None]:
    """Ends the process with `reason` where the block takes longer: it is inside jax and cannot be interrupted."""

    def give_up() -> None:
        print(f"error: {reason}", file=sys.stderr, flush=True)
        os._exit(JoinError.exit_code)

    timer = threading.Timer(timeout_s, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def is_joined() -> bool:
    """Whether this process is one of several."""
    jax = sys.modules.get("jax")  # not imported to find out that it is not
    return jax is not None and bool(jax.distributed.is_initialized())


def is_first() -> bool:
    """Whether this process writes the run folder and speaks to the trackers: the only one, or number 0."""
    return not is_joined() or sys.modules["jax"].process_index() == 0


def from_first(make: Callable[[], T]) -> T:
    """What `make` gives, or raises, in the first process, in all of them; only that one calls it.

    Args:
        make: Gives plain JSON values.
    """
    if not is_joined():
        return make()
    outcome: dict[str, Any] = {}
    failure: MlvlabError | OSError | None = None
    if is_first():
        try:
            outcome = {"value": make()}
        except (MlvlabError, OSError) as error:
            failure = error
            outcome = {"kind": type(error).__name__, "message": str(error), "path": getattr(error, "path", None)}
    outcome = gather(outcome)[0]
    if failure is not None:
        raise failure
    if "value" in outcome:
        value: T = outcome["value"]
        return value
    kind = getattr(errors, outcome["kind"], RunFolderError)
    raise kind(outcome["message"], path=outcome["path"])


def gather(value: Any) -> list[Any]:
    """Every process's `value`, plain JSON, in the order of the processes; all of them must call it."""
    if not is_joined():
        return [value]
    import jax
    import numpy as np
    from jax.experimental.multihost_utils import process_allgather

    data = json.dumps(value).encode()
    data = len(data).to_bytes(8, "little") + data
    received: list[bytes] = [b""] * jax.process_count()
    sizes = [_CHUNK]
    while len(received[0]) < max(sizes):
        chunk = data[len(received[0]) : len(received[0]) + _CHUNK].ljust(_CHUNK, b"\0")
        with jax.transfer_guard("allow"):
            rows = process_allgather(np.frombuffer(chunk, np.uint8))
        received = [earlier + row.tobytes() for earlier, row in zip(received, rows, strict=True)]
        sizes = [8 + int.from_bytes(one[:8], "little") for one in received]
    return [json.loads(one[8:size]) for one, size in zip(received, sizes, strict=True)]
