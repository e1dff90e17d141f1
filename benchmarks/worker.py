"""The answering side of a benchmark's second process: one JSON object a line in, one out. Needs the standard library.

Answers go to a pipe of their own, whose number is in BENCHMARK_ANSWERS: libraries print when they like. Between two
requests the process sleeps in a read, so the other side has the machine to itself.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping


def answer_requests(handlers: Mapping[str, Callable[..., object]]) -> None:
    """Answers {"do": NAME, ...} with {"answer": handlers[NAME](**rest)} or {"error": words} until the input ends."""
    channel = os.fdopen(int(os.environ["BENCHMARK_ANSWERS"]), "w")
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = {"answer": handlers[request.pop("do")](**request)}
        except Exception as error:  # noqa: BLE001 - the asking side decides what a failure means
            reply = {"error": f"{type(error).__name__}: {error}"[:2000]}
        print(json.dumps(reply), file=channel, flush=True)
