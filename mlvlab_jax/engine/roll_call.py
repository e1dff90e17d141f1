"""Who is there, before jax's own service starts: where a process is missing that one aborts without saying which."""

import contextlib
import socket
import time
from collections.abc import Iterator

from mlvlab_jax.errors import JoinError

_GREETING = "mlvlab-jax"
_MAX_BYTES = 4096
#: Seconds between two attempts to reach the first process, and those a connection has to say who it is.
_RETRY_S, _GREETING_S = 0.2, 5.0


def call_roll(address: tuple[str, int], *, process_id: int, num_processes: int, timeout_s: float) -> None:
    """Returns once all processes have called this with the same address and number.

    Args:
        address: Host and port of process 0, which listens on all its interfaces.
        process_id: This process, from 0.
        num_processes: Processes in all.
        timeout_s: Seconds to wait for the others.

    Raises:
        JoinError: Some did not come in time, or two of them disagree; the message says which.
    """
    deadline = time.monotonic() + timeout_s
    if process_id == 0:
        _Host(num_processes, timeout_s).wait(address[1], deadline)
    else:
        _answer(address, process_id, num_processes, deadline, timeout_s)


class _Host:
    """Process 0: collects the others' connections and lets all of them go at once."""

    def __init__(self, num_processes: int, timeout_s: float) -> None:
        self._num_processes = num_processes
        self._timeout_s = timeout_s
        self._callers: list[socket.socket] = []
        self._present: dict[int, socket.socket] = {}

    def wait(self, port: int, deadline: float) -> None:
        with _listen(port) as server, contextlib.ExitStack() as open_connections:
            try:
                while len(self._present) < self._num_processes - 1:
                    server.settimeout(max(deadline - time.monotonic(), 1e-3))
                    connection = open_connections.enter_context(server.accept()[0])
                    self._greet(connection)
            except TimeoutError:
                self._dismiss(self._describe_missing())
            self._send("go")

    def _greet(self, connection: socket.socket) -> None:
        """Notes who is calling; what is not one of ours is not answered."""
        connection.settimeout(_GREETING_S)
        try:
            words = connection.recv(_MAX_BYTES).decode(errors="replace").split()
        except OSError:
            return
        if len(words) != 3 or words[0] != _GREETING or not (words[1].isdecimal() and words[2].isdecimal()):
            return
        process_id, num_processes = int(words[1]), int(words[2])
        self._callers.append(connection)
        earlier = self._present.get(process_id)
        if earlier is not None and not _is_closed(earlier):
            self._dismiss(
                f"two processes have the number {process_id}; expected 0 to {self._num_processes - 1}, each once"
            )
        self._present[process_id] = connection
        if num_processes != self._num_processes:
            self._dismiss(
                f"process 0 expects {self._num_processes} processes, process {process_id} expects {num_processes}; "
                "give all of them the same --num-processes"
            )

    def _describe_missing(self) -> str:
        missing = [str(i) for i in range(1, self._num_processes) if i not in self._present]
        listed = ", ".join(missing[:8]) + (", ..." if len(missing) > 8 else "")
        return (
            f"{len(self._present) + 1} of {self._num_processes} processes joined within {self._timeout_s:g} s; "
            f"missing: {listed}; look at their logs, or give --join-timeout-s more"
        )

    def _dismiss(self, reason: str) -> None:
        self._send(reason)
        raise JoinError(reason)

    def _send(self, text: str) -> None:
        for connection in self._callers:
            with contextlib.suppress(OSError):
                connection.sendall(text.encode())


def _answer(address: tuple[str, int], process_id: int, num_processes: int, deadline: float, timeout_s: float) -> None:
    """Any other process: says who it is and waits for the answer, from the beginning where process 0 is not there."""
    greeting = f"{_GREETING} {process_id} {num_processes}\n".encode()
    why: OSError | str = "no answer"
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(address, timeout=max(deadline - time.monotonic(), 1e-3)) as connection:
                connection.sendall(greeting)
                # Process 0 may have come later, and then says later who is missing.
                connection.settimeout(timeout_s + _GREETING_S)
                answer = connection.recv(_MAX_BYTES).decode(errors="replace")
        except OSError as error:
            why, answer = error, ""
        if answer == "go":
            return
        if answer:
            raise JoinError(answer)
        time.sleep(_RETRY_S)
    raise JoinError(
        f"process {process_id} of {num_processes} could not reach process 0 at {address[0]}:{address[1]} within "
        f"{timeout_s:g} s ({why}); expected it to listen there; start it, correct --coordinator, or give "
        "--join-timeout-s more"
    )


@contextlib.contextmanager
def _listen(port: int) -> Iterator[socket.socket]:
    """A server on all interfaces, as jax's service will be on the same port afterwards."""
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    try:
        server = socket.create_server(("", port), family=family, dualstack_ipv6=dual, backlog=1024)
    except OSError as error:
        raise JoinError(
            f"process 0 cannot listen on port {port} ({error.strerror or error}); expected a free port; "
            "give another --coordinator HOST:PORT to all processes"
        ) from None
    with server:
        yield server


def _is_closed(connection: socket.socket) -> bool:
    """Whether the other side is gone, as a process that was started again leaves it."""
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
