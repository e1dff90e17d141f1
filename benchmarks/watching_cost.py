"""Goals M3 and M5: what watching a served model costs its answers, also where what watches is broken.

The same requests at the same times go to servers that differ in how they are watched; p99 of each is compared with that
of the server nobody watches, in the order A B C D D C B A.
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serving_load import Reply, make_request, open_loop, percentile_ms
from serving_parts import Server, make_package, serving, write_picture

RATE, SECONDS, REPEATS, SCRAPE_S = 100, 10, 3, 0.5
#: Nobody listens there.
DEAD_WEBHOOK = "http://127.0.0.1:9/"
#: What is done to the detector of drift before the server starts.
FAULTS = {
    "crashing": "def broken(self, window): raise RuntimeError('planted')",
    "slow": "import time\ndef broken(self, window): time.sleep(5)",
}
_PRELUDE = "{fault}\nfrom mlvlab_jax.monitoring.detector import Detector\nDetector.judge = broken\n"


@contextlib.contextmanager
def scraped(server: Server) -> Iterator[None]:
    """Asks for the metrics twice a second, as an eager Prometheus would."""
    ended = threading.Event()

    def scrape() -> None:
        while not ended.wait(SCRAPE_S):
            with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=10) as reply:
                reply.read()

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def load(server: Server, request: bytes) -> list[Reply]:
    made = open_loop(server.port, lambda: request, rate=RATE, until=lambda now_s: now_s >= SECONDS, max_connections=64)
    with scraped(server):
        return asyncio.run(made)[0]


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        package, picture = make_package(folder, "tiny", num_train=5000), write_picture(folder / "picture.png", "tiny")
        request = make_request("/v1/classify", picture.read_bytes())

        def start(which: str) -> Server:
            watching = (
                []
                if which == "unwatched"
                else [
                    f"monitoring.folder={folder / which}",
                    f"monitoring.webhook.url={DEAD_WEBHOOK}",
                ]
            )
            prelude = _PRELUDE.format(fault=FAULTS[which]) if which in FAULTS else ""
            return stack.enter_context(serving(folder, "--package", str(package), *watching, prelude=prelude))

        servers = {which: start(which) for which in ("unwatched", "watched", *FAULTS)}
        runs: dict[str, list[dict[str, Any]]] = {which: [] for which in servers}
        for server in servers.values():
            load(server, request)
        for which in [*servers, *reversed(servers)] * REPEATS:
            replies = load(servers[which], request)
            taken = [reply.seconds for reply in replies]
            failed = sum(reply.status != 200 for reply in replies)
            runs[which].append(
                {"p50_ms": percentile_ms(taken, 50), "p99_ms": percentile_ms(taken, 99), "failed": failed}
            )
        watched = {
            which: {
                "windows": sum(1 for _ in (folder / which / "windows.jsonl").open()) if which == "watched" else None,
                "errors": servers[which].metric("mlvlab_drift_errors_total"),
                "dropped": servers[which].metric("mlvlab_monitor_dropped_total"),
            }
            for which in ("watched", *FAULTS)
        }
    medians = {which: statistics.median(run["p99_ms"] for run in several) for which, several in runs.items()}
    summary = {f"p99_{which}": round(medians[which] / medians["unwatched"], 3) for which in ("watched", *FAULTS)}
    summary["failed"] = sum(run["failed"] for several in runs.values() for run in several)
    print(json.dumps({"requests_s": RATE, "runs": runs, "watchers": watched, "summary": summary}))


if __name__ == "__main__":
    main()
