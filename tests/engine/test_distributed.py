import socket
import threading

import pytest

from mlvlab_jax.engine.distributed import Place, detect_cluster, from_first, is_first, join, parse_place
from mlvlab_jax.engine.roll_call import call_roll
from mlvlab_jax.errors import ConfigError, DataError, JoinError

SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "a[1-2]", "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}


@pytest.fixture
def address():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()


def call_in_threads(address, calls, *, timeout_s):
    """What each call of (process_id, num_processes) raised, or None."""
    raised = {}

    def call(number, process_id, num_processes):
        try:
            call_roll(address, process_id=process_id, num_processes=num_processes, timeout_s=timeout_s)
            raised[number] = None
        except JoinError as error:
            raised[number] = str(error)

    threads = [threading.Thread(target=call, args=(i, *who)) for i, who in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [raised[i] for i in range(len(calls))]


def test_the_roll_is_complete_in_any_order_and_strangers_do_not_count(address):
    stop = threading.Event()

    def knock():
        while not stop.is_set():
            try:
                with socket.create_connection(address, timeout=1) as stranger:
                    stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
                return
            except OSError:
                stop.wait(0.01)

    stranger = threading.Thread(target=knock)
    stranger.start()
    assert call_in_threads(address, [(2, 3), (1, 3), (0, 3)], timeout_s=30) == [None] * 3
    stop.set()
    stranger.join()


def test_those_who_came_are_told_who_is_missing(address):
    reasons = call_in_threads(address, [(0, 5), (3, 5)], timeout_s=1)
    assert len(set(reasons)) == 1
    assert reasons[0].startswith("2 of 5 processes joined within 1 s; missing: 1, 2, 4; ")


def test_processes_that_disagree_are_told_how(address):
    reasons = call_in_threads(address, [(0, 2), (1, 3)], timeout_s=20)
    assert set(reasons) == {
        "process 0 expects 2 processes, process 1 expects 3; give all of them the same --num-processes"
    }
    reasons = call_in_threads(address, [(0, 3), (1, 3), (1, 3)], timeout_s=20)
    assert all("two processes have the number 1" in reason for reason in reasons)


def test_a_first_process_that_never_comes_is_named_by_its_address(address):
    with pytest.raises(
        JoinError, match=rf"process 1 of 2 could not reach process 0 at 127.0.0.1:{address[1]}"
    ) as caught:
        call_roll(address, process_id=1, num_processes=2, timeout_s=0.5)
    assert caught.value.exit_code == 76


def test_a_port_in_use_is_refused_at_once():
    with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        port = server.getsockname()[1]
        with pytest.raises(JoinError, match=rf"cannot listen on port {port} .* expected a free port"):
            call_roll(("127.0.0.1", port), process_id=0, num_processes=2, timeout_s=60)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((None, None, None), None),
        ((None, 1, None), Place(("", 0), 1, 0)),
        (("node0:5000", 4, 3), Place(("node0", 5000), 4, 3)),
        (("[fe80::1]:5000", 4, 0), Place(("fe80::1", 5000), 4, 0)),
    ],
)
def test_flags_name_a_place(given, expected):
    coordinator, num_processes, process_id = given
    assert parse_place(coordinator, num_processes=num_processes, process_id=process_id) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((None, 2, None), "--coordinator and --process-id missing"),
        (("a:1", None, None), "--num-processes and --process-id missing"),
        (("a", 2, 0), "--coordinator 'a': expected HOST:PORT"),
        (("a:70000", 2, 0), "--coordinator 'a:70000': expected HOST:PORT"),
        (("a:1", 2, 2), "--process-id 2 of --num-processes 2: expected 0 to one less"),
        (("a:1", 0, 0), "--process-id 0 of --num-processes 0"),
    ],
)
def test_flags_that_do_not_fit_are_refused(given, expected):
    coordinator, num_processes, process_id = given
    with pytest.raises(ConfigError, match=expected):
        parse_place(coordinator, num_processes=num_processes, process_id=process_id)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        (SLURM | {"SLURM_NTASKS": "4"}, "process 1 of 4 (Slurm)"),
        (SLURM | {"SLURM_NTASKS": "1"}, None),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}, None),  # a shell in an allocation: not started by srun
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}, "process 0 of 2 (Open MPI)"),
        ({"TPU_WORKER_HOSTNAMES": "a,b,c", "TPU_WORKER_ID": "2"}, "process 2 of 3 (Cloud TPU)"),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),  # a pod that is not of an indexed job
    ],
)
def test_a_cluster_is_known_by_its_variables(environment, expected):
    assert detect_cluster(environment) == expected


def test_a_pod_that_cannot_find_the_others_is_told_what_to_do(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'jax\[k8s\]'.*--num-processes 1"):
        detect_cluster({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"})


def test_one_process_joins_nothing_and_does_everything_itself(monkeypatch):
    monkeypatch.setattr("jax.distributed.initialize", lambda **_: pytest.fail("one process has nobody to join"))
    join(None, timeout_s=1)
    join(parse_place(None, num_processes=1, process_id=None), timeout_s=1)
    assert is_first()
    assert from_first(lambda: "done") == "done"
    with pytest.raises(DataError):
        from_first(lambda: (_ for _ in ()).throw(DataError("gone")))
