"""What clouds say before they take a machine away: asked for in threads, and a reason to stop as a signal is.

Google's metadata server answers once something changes; Amazon's is asked every few seconds. Where a machine is not
one of theirs nothing is asked, and where the server does not answer the run knows nothing of it.
"""

import http.client
import json
import os
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

#: Where the system says whose machine it is.
_DMI = Path("/sys/class/dmi/id")
_GOOGLE, _AMAZON = "metadata.google.internal", "http://169.254.169.254"
#: Seconds that Google's server may wait before it answers, that any server has to answer beyond that, between two
#: questions, and after one that failed.
_WAIT_S, _ANSWER_S, _PAUSE_S, _FAILED_S = 60, 10, 2, 30
#: Asks once; gives what was said if that is a notice.
Question = Callable[[], str | None]


class PreemptionNotices:
    """Asks the cloud this machine belongs to, while the block runs, whether it is about to take it away.

    Args:
        ask: Called at a notice, from another thread.
    """

    def __init__(self, ask: Callable[[], None]) -> None:
        self._ask = ask
        self._ended = threading.Event()

    def __enter__(self) -> "PreemptionNotices":
        for question in find_questions(os.environ):
            threading.Thread(target=self._watch, args=(question,), name="preemption", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()  # not joined: one may be waiting for an answer

    def _watch(self, question: Question) -> None:
        pause_s = 0
        while not self._ended.wait(pause_s):
            try:
                notice, pause_s = question(), _PAUSE_S
            except (OSError, ValueError, http.client.HTTPException):
                notice, pause_s = None, _FAILED_S
            if notice is not None and not self._ended.is_set():
                print(f"asked to stop: {notice}", file=sys.stderr, flush=True)
                self._ask()
                return


def find_questions(environment: Mapping[str, str], *, dmi: Path = _DMI) -> list[Question]:
    """What can be asked on this machine.

    Args:
        environment: GCE_METADATA_HOST and AWS_EC2_METADATA_SERVICE_ENDPOINT name servers in place of the usual ones.
        dmi: Where the system says whose machine it is.
    """
    google, amazon = environment.get("GCE_METADATA_HOST"), environment.get("AWS_EC2_METADATA_SERVICE_ENDPOINT")
    questions: list[Question] = []
    if google or _read(dmi / "product_name").startswith("Google"):
        host = google or _GOOGLE
        questions += [
            GoogleVariable(host, "preempted", "TRUE"),
            # Known an hour ahead: a run that is started again in that hour has been told already.
            GoogleVariable(host, "maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE", only_changes=True),
        ]
    if amazon or _read(dmi / "sys_vendor") == "Amazon EC2":
        questions.append(SpotAction((amazon or _AMAZON).rstrip("/")))
    return questions


class GoogleVariable:
    """Asks a Compute Engine metadata server for a variable of the instance; each answer waits for a change.

    Args:
        host: Of the server, with its port if that is not 80.
        name: Of the variable.
        value: The one that is a notice.
        only_changes: Whether the first answer is none, whatever it says.
    """

    def __init__(self, host: str, name: str, value: str, *, only_changes: bool = False) -> None:
        self._url = f"http://{host}/computeMetadata/v1/instance/{name}?wait_for_change=true&timeout_sec={_WAIT_S}"
        self._name, self._value, self._known = name, value, not only_changes
        self._etag = "0"  # of no answer: the first comes at once

    def __call__(self) -> str | None:
        """The notice, or None."""
        said, self._etag = _open(f"{self._url}&last_etag={self._etag}", {"Metadata-Flavor": "Google"}, wait_s=_WAIT_S)
        known, self._known = self._known, True
        return f"Google says {self._name} {said}" if known and said == self._value else None


class SpotAction:
    """Asks an EC2 instance metadata server (version 2) what is to become of this spot instance.

    Args:
        endpoint: URL of the server.
    """

    def __init__(self, endpoint: str) -> None:
        self._url = f"{endpoint}/latest"

    def __call__(self) -> str | None:
        """The notice, or None."""
        token, _ = _open(f"{self._url}/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, method="PUT")
        try:
            said, _ = _open(f"{self._url}/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token})
        except urllib.error.HTTPError as error:
            if error.code == http.HTTPStatus.NOT_FOUND:
                return None  # nothing, so far
            raise
        action = json.loads(said)
        return f"Amazon says {action['action']} at {action['time']}"


def _open(url: str, headers: Mapping[str, str], *, method: str = "GET", wait_s: float = 0) -> tuple[str, str]:
    """Answer and its ETag; no proxy is asked, as these servers answer to their machine alone."""
    request = urllib.request.Request(url, headers=dict(headers), method=method)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=wait_s + _ANSWER_S) as answer:
        return answer.read().decode().strip(), answer.headers.get("ETag", "0")


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
