"""Goals C11, S2, S12 and S14, and the memory of a server: throughput with and without batching, overload, reloads.

Server and load share the processor; in the overload they have their own halves of its cores, or what the load takes
would be counted as lost by the server. Load is wrk's where throughput is measured and wrk is installed, else that of
the asyncio client, which also makes the overload, as it times each reply by its status.
"""

import argparse
import asyncio
import contextlib
import functools
import json
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serving_load import Connection, Reply, closed_loop, make_request, measure_throughput, open_loop, percentile_ms
from serving_parts import MODELS, Server, make_package, serving, write_picture

PATH = "/v1/classify"
CLIENTS, SECONDS, OVERLOAD = 32, 3, 8
PEAK_S, OVERLOAD_S, RAMP_S = 20, 30, 2
NUM_STARTS = 7
#: Images that may wait while overloaded: fewer than there are clients.
QUEUE, MAX_BATCH = 8, 4
NUM_RELOADS, RELOAD_RATE, RELOAD_LIMIT_S = 20, 50, 60.0
MAX_CONNECTIONS = 512
REFUSALS, LATE = (429, 503), 504


def measure_batching(folder: Path, package: Path, picture: Path) -> dict[str, Any]:
    """C11: two servers, the one with batches of at most 1, in the order A B B A."""
    runs: dict[str, list[dict[str, Any]]] = {"dynamic": [], "serial": []}
    with (
        serving(folder, "--package", str(package)) as dynamic,
        serving(folder, "--package", str(package), "batching.max_size=1") as serial,
    ):
        servers = {"dynamic": dynamic, "serial": serial}
        for server in servers.values():
            measure_throughput(server.port, PATH, picture, num_clients=CLIENTS, seconds=1)
        for which in ("dynamic", "serial", "serial", "dynamic") * 2:
            port = servers[which].port
            runs[which].append(measure_throughput(port, PATH, picture, num_clients=CLIENTS, seconds=SECONDS))
        alone = measure_throughput(serial.port, PATH, picture, num_clients=1, seconds=2)
        mean_batch = dynamic.metric("mlvlab_batch_images_sum") / dynamic.metric("mlvlab_batch_images_count")
    medians = {
        which: {name: statistics.median(run[name] for run in several) for name in ("requests_s", "p50_ms", "p99_ms")}
        for which, several in runs.items()
    }
    return {
        "runs": runs,
        "medians": medians,
        "serial_one_client": alone,
        "mean_batch": round(mean_batch, 2),
        "requests_ratio": round(medians["dynamic"]["requests_s"] / medians["serial"]["requests_s"], 3),
        "p99_ratio": round(medians["dynamic"]["p99_ms"] / medians["serial"]["p99_ms"], 3),
    }


def measure_overload(folder: Path, package: Path, picture: Path) -> dict[str, Any]:
    """S2: peak, then eight times as many clients, then eight times as many requests a second as the peak."""
    request = make_request(PATH, picture.read_bytes())
    small = (f"batching.queue_size={QUEUE}", f"batching.max_size={MAX_BATCH}")
    cores = sorted(os.sched_getaffinity(0))
    of_server, of_load = set(cores[: -(-len(cores) // 2)]), set(cores[len(cores) // 2 :])
    pinned = f"import os\nos.sched_setaffinity(0, {of_server})"
    with serving(folder, "--package", str(package), *small, prelude=pinned) as server, on_cores(of_load):
        load = functools.partial(closed_loop, server.port, request)
        asyncio.run(load(num_clients=CLIENTS, seconds=2))
        peak = answered_per_second(asyncio.run(load(num_clients=CLIENTS, seconds=PEAK_S)), PEAK_S)
        if peak == 0:
            raise SystemExit("no request was answered in time without overload; run this on a machine that is idle")
        rss = server.rss_mib()
        results: dict[str, Any] = {"peak_requests_s": round(peak, 1), "rss_mib": rss}
        replies = asyncio.run(load(num_clients=OVERLOAD * CLIENTS, seconds=OVERLOAD_S))
        results["closed"] = describe_overload(replies, peak=peak, server=server, rss=rss)
        replies, unsent = asyncio.run(
            open_loop(
                server.port,
                lambda: request,
                rate=OVERLOAD * peak,
                until=lambda now_s: now_s >= OVERLOAD_S,
                max_connections=MAX_CONNECTIONS,
            )
        )
        results["open"] = {**describe_overload(replies, peak=peak, server=server, rss=rss), "unsent": unsent}
        results["recovery_s"] = asyncio.run(measure_recovery(server.port, request))
    return results


@contextlib.contextmanager
def on_cores(cores: set[int]) -> Iterator[None]:
    """This process runs on these cores alone, until the block ends."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def answered_per_second(replies: list[Reply], seconds: float) -> float:
    """Answers that came while the load lasted, after its first moments; those that came after its end are not its."""
    ends = [reply.at_s + reply.seconds for reply in replies if reply.status == 200]
    return sum(RAMP_S <= end < seconds for end in ends) / (seconds - RAMP_S)


def describe_overload(replies: list[Reply], *, peak: float, server: Server, rss: float) -> dict[str, Any]:
    accepted = [reply.seconds for reply in replies if reply.status == 200]
    shed = [reply.seconds for reply in replies if reply.status in REFUSALS]
    codes = Counter(reply.status for reply in replies)
    return {
        "codes": {str(status): num for status, num in sorted(codes.items())},
        "other_codes": sum(num for status, num in codes.items() if status not in (200, *REFUSALS, LATE)),
        "goodput_share": round(answered_per_second(replies, OVERLOAD_S) / peak, 3),
        "p50_accepted_ms": percentile_ms(accepted, 50),
        "p99_accepted_ms": percentile_ms(accepted, 99),
        "p99_shed_ms": percentile_ms(shed, 99),
        "rss_growth": round(server.rss_mib() / rss - 1, 3),
    }


async def measure_recovery(port: int, request: bytes) -> float:
    """Seconds until the last of 60 requests, one after the other, that was refused or took over 0.2 s."""
    connection, began, recovered_s = Connection(port), time.perf_counter(), 0.0
    for _ in range(60):
        asked = time.perf_counter()
        status, _ = await connection.ask(request)
        if status != 200 or time.perf_counter() - asked > 0.2:
            recovered_s = time.perf_counter() - began
        await asyncio.sleep(0.05)
    connection.close()
    return round(recovered_s, 3)


def measure_first(folder: Path, package: Path, picture: Path) -> dict[str, Any]:
    """S14: what is compiled after the server is ready, and the first request of each of several servers beside p50."""
    request = make_request(PATH, picture.read_bytes())
    compiled, firsts, medians, ready = 0, [], [], []
    for _ in range(NUM_STARTS):
        with serving(folder, "--package", str(package), environment={"JAX_LOG_COMPILES": "1"}) as server:
            before = count_compiles(server)
            first, *rest = asyncio.run(closed_loop(server.port, request, num_clients=1, seconds=1))
            for num_clients in (2, 5, CLIENTS):
                asyncio.run(closed_loop(server.port, request, num_clients=num_clients, seconds=0.5))
            compiled += count_compiles(server) - before
        ready.append(server.seconds_to_ready)
        firsts.append(round(1e3 * first.seconds, 3))
        medians.append(round(1e3 * statistics.median(reply.seconds for reply in rest), 3))
    ratios = [round(first / median, 3) for first, median in zip(firsts, medians, strict=True)]
    return {
        "seconds_to_ready": ready,
        "compiles_before_ready": before,
        "compiles_after_ready": compiled,
        "first_ms": firsts,
        "p50_ms": medians,
        "first_over_p50": ratios,
    }


def count_compiles(server: Server) -> int:
    return server.log.read_text().count("Finished XLA compilation")


def measure_reloads(folder: Path, packages: list[Path], picture: Path) -> dict[str, Any]:
    """S12: the alias moves between two versions, and to one that is broken, while 50 requests a second come."""
    from mlvlab_jax.package.load import load_package
    from mlvlab_jax.registry.file_store import FileStore
    from mlvlab_jax.registry.model_registry import ModelRegistry
    from mlvlab_jax.registry.store import make_move

    store = FileStore(folder / "registry")
    registry = ModelRegistry(store)
    expected = {}
    for version, package in zip(("1.0.0", "2.0.0", "3.0.0"), [*packages, packages[0]], strict=True):
        registry.register(name="bench", version=version, package=package)
        opened = load_package(package)
        image = opened.preprocess_bytes(picture.read_bytes())
        expected[version] = float(opened.predict_probabilities(image[None]).max())
    broken = registry.open_package("bench", "3.0.0") / "model.safetensors"
    broken.chmod(0o600)
    weights = bytearray(broken.read_bytes())
    weights[-1] ^= 1
    broken.write_bytes(weights)

    def point_to(version: str) -> None:
        previous = store.aliases("bench").get("champion")
        move = make_move("promote", alias="champion", version=version, previous=previous, details={})
        store.set_alias("bench", "champion", move)

    point_to("1.0.0")
    place = ["--model", "bench@champion", "--registry", str(folder / "registry"), "follow_s=0.1"]
    with serving(folder, *place) as server:
        rss, replies, reloads = server.rss_mib(), [], 0
        ended = threading.Event()

        def load() -> None:
            request = make_request(PATH, picture.read_bytes())
            make = functools.partial(open_loop, server.port, lambda: request, rate=RELOAD_RATE, max_connections=64)
            replies.extend(asyncio.run(make(until=lambda now_s: ended.is_set()))[0])

        thread = threading.Thread(target=load)
        thread.start()
        began = time.monotonic()
        for number in range(NUM_RELOADS):
            point_to(("2.0.0", "1.0.0")[number % 2])
            while server.metric('mlvlab_reloads_total{result="ok"}') < number + 1:
                if time.monotonic() > began + RELOAD_LIMIT_S:
                    break
                time.sleep(0.05)
            else:
                reloads += 1
        seconds = time.monotonic() - began
        point_to("3.0.0")
        time.sleep(3)
        failing = server.metric("mlvlab_reload_failing")
        ended.set()
        thread.join()
        rss_after = server.rss_mib()
    answers = [(reply.status, json.loads(reply.body) if reply.status == 200 else {}) for reply in replies]
    wrong = [
        answer
        for status, answer in answers
        if status == 200 and abs(answer["predictions"][0]["probability"] - expected[answer["version"]]) > 1e-4
    ]
    return {
        "reloads": reloads,
        "seconds_a_reload": round(seconds / NUM_RELOADS, 2),
        "requests": len(replies),
        "failed": sum(status != 200 for status, _ in answers),
        "of_another_version_than_stated": len(wrong),
        "by_version": dict(Counter(answer.get("version", "none") for _, answer in answers)),
        "broken_version_refused": failing == 1,
        "p99_ms": percentile_ms([reply.seconds for reply in replies], 99),
        "rss_mib": [rss, rss_after],
    }


def measure_memory(folder: Path, package: Path, picture: Path) -> dict[str, Any]:
    """Memory of a server of a ViT-S/16 with programs for 1 to 32 images, after batches of every size."""
    request = make_request(PATH, picture.read_bytes())
    with serving(folder, "--package", str(package), "batching.deadline_ms=20000") as server:
        ready = server.rss_mib()
        for num_clients in (1, 3, CLIENTS):
            asyncio.run(closed_loop(server.port, request, num_clients=num_clients, seconds=4))
        return {
            "seconds_to_ready": server.seconds_to_ready,
            "ready_mib": ready,
            "served_mib": server.rss_mib(),
            "peak_mib": server.rss_mib("VmHWM"),
        }


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = {model: write_picture(folder / f"{model}.png", model) for model in MODELS}
        tiny, other = (make_package(folder, "tiny", seed=seed) for seed in (0, 1))
        wide, vit, slow, vit_s = (make_package(folder, model) for model in ("wide", "vit", "slow", "vit_s"))
        results = {
            "C11": {
                "tiny": measure_batching(folder, tiny, pictures["tiny"]),
                "wide": measure_batching(folder, wide, pictures["wide"]),
                "vit": measure_batching(folder, vit, pictures["vit"]),
            },
            "S2": measure_overload(folder, slow, pictures["slow"]),
            "S12": measure_reloads(folder, [tiny, other], pictures["tiny"]),
            "S14": measure_first(folder, tiny, pictures["tiny"]),
            "memory": measure_memory(folder, vit_s, pictures["vit_s"]),
        }
    closed, opened, reloads = results["S2"]["closed"], results["S2"]["open"], results["S12"]
    summary = {
        **{f"C11_{name}_requests": model["requests_ratio"] for name, model in results["C11"].items()},
        **{f"C11_{name}_p99": model["p99_ratio"] for name, model in results["C11"].items()},
        "S2_goodput_share": min(closed["goodput_share"], opened["goodput_share"]),
        "S2_other_codes": closed["other_codes"] + opened["other_codes"],
        "S2_p99_accepted_ms": max(closed["p99_accepted_ms"], opened["p99_accepted_ms"]),
        "S2_p99_shed_ms": max(closed["p99_shed_ms"] or 0, opened["p99_shed_ms"] or 0),
        "S2_rss_growth": opened["rss_growth"],
        "S2_recovery_s": results["S2"]["recovery_s"],
        "S12_failed": reloads["failed"] + reloads["of_another_version_than_stated"],
        "S12_requests": reloads["requests"],
        "S14_compiles_after_ready": results["S14"]["compiles_after_ready"],
        "S14_first_over_p50": round(statistics.median(results["S14"]["first_over_p50"]), 3),
        "vit_s_peak_mib": results["memory"]["peak_mib"],
    }
    load = "wrk" if shutil.which("wrk") else "asyncio client; wrk is not installed"
    print(json.dumps({"load": load, "results": results, "summary": summary}))


if __name__ == "__main__":
    main()
