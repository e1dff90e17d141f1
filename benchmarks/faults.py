"""Faults survived, counted: kills, signals by phase, flipped bits, hangs and false alarms; no timings.

Kills are those of `mlvlab verify-resume` on faults.yaml, with resumes on other meshes; the bits are flipped in a
checkpoint of its unbroken run, twelve in each file. Everything else is done by tests, which really kill, stop and
block: what is counted is which of them pass. `--quick` flips bits alone, in a folder made up for it.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from mlvlab_jax.engine.integrity import find_damage, seal
from mlvlab_jax.engine.recovery import list_steps

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "faults.json"
NUM_KILLS, BITS_PER_FILE = 30, 12
MESHES = ("data=4", "data=2,fsdp=2")

_STOPPING, _PEERS = "tests/end_to_end/test_stopping.py", "tests/end_to_end/test_peers.py"
#: What is counted -> the test that does it, each of whose cases counts.
TESTS = {
    "phases_of_sigterm": f"{_STOPPING}::test_a_run_asked_to_stop_saves_and_goes_on_when_started_again",
    "signals_at_random": f"{_STOPPING}::test_a_run_asked_at_a_random_moment_saves_and_goes_on",
    "second_signals": f"{_STOPPING}::test_a_second_signal_ends_a_run_within_a_second_whose_last_save_is_whole",
    "kills_while_reading_ahead": (
        f"{_STOPPING}::test_a_run_killed_again_before_it_used_what_was_read_ahead_ends_the_same"
    ),
    "signals_to_one_of_two": f"{_PEERS}::test_one_process_asked_at_a_random_moment_stops_both_after_the_same_step",
    "kills_of_one_of_two": f"{_PEERS}::test_either_of_two_killed_at_a_random_moment_goes_on",
    "hangs_ended": f"{_PEERS}::test_a_stuck_process_ends_both_within_the_limit_and_ten_seconds",
    "uneven_steps_without_alarm": f"{_PEERS}::test_a_thousand_uneven_steps_raise_no_alarm",
    "processes_agree": (
        "tests/end_to_end/test_topologies.py"
        "::test_several_processes_are_given_the_same_examples_and_have_the_same_losses"
    ),
}


def kill(folder: Path, *, num_kills: int) -> dict[str, Any]:
    """The certificate of so many kills; runs and certificate stay in `folder`."""
    meshes = [word for mesh in MESHES for word in ("--mesh", mesh)]
    command = [
        sys.executable,
        "-m",
        "mlvlab_jax.verify_resume",
        "--config",
        str(Path(__file__).with_name("faults.yaml")),
    ]
    flags = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    arguments = ["--kills", str(num_kills), *meshes, "--workdir", str(folder)]
    subprocess.run([*command, *arguments], cwd=ROOT, env={**os.environ, **flags}, stdout=2, check=False)
    certificate: dict[str, Any] = json.loads((folder / "certificate.json").read_text())
    return certificate


def count_identical(certificate: dict[str, Any]) -> tuple[int, int]:
    """Kills after which the run ended as the unbroken one, of all."""
    ended = [not certificate["differences"][kill["run"]] for kill in certificate["kills"]]
    return sum(ended), len(ended)


def flip_bits(checkpoint: Path) -> tuple[int, int]:
    """Single bits flipped that were found, of all; each is flipped back."""
    draw, found = random.Random(0), []
    for path in sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.stat().st_size):
        whole = path.read_bytes()
        for _ in range(BITS_PER_FILE):
            bit, changed = draw.randrange(8 * len(whole)), bytearray(whole)
            changed[bit // 8] ^= 1 << bit % 8
            path.write_bytes(changed)
            found.append(bool(find_damage(checkpoint)))
        path.write_bytes(whole)
    if find_damage(checkpoint):
        raise SystemExit(f"{checkpoint}: damaged before a bit was flipped")
    return sum(found), len(found)


def run_test(test: str) -> tuple[int, int]:
    """Cases of a test that passed, of all, the slow ones too."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "", f"--junit-xml={report}", test]
        done = subprocess.run(command, cwd=ROOT, stdout=2, check=False)
        cases = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []
    if not cases or done.returncode > 1:
        raise SystemExit(f"{test}: no such test, or none was run")
    passed = sum(all(child.tag not in ("failure", "error", "skipped") for child in case) for case in cases)
    return passed, len(cases)


def make_checkpoint(folder: Path) -> Path:
    """Two files under a seal."""
    (folder / "7" / "state").mkdir(parents=True)
    (folder / "7" / "state" / "array").write_bytes(bytes(range(256)))
    (folder / "7" / "progress").write_text('{"step": 7}')
    seal(folder / "7")
    return folder / "7"


def count_all() -> dict[str, Any]:
    """Kills, bits and every test."""
    with tempfile.TemporaryDirectory() as folder:
        certificate = kill(Path(folder) / "proof", num_kills=NUM_KILLS)
        checkpoints = Path(folder) / "proof" / "unbroken" / "checkpoints"
        bits = flip_bits(checkpoints / str(list_steps(checkpoints)[-1]))
    counted = {"kills_identical": count_identical(certificate), **count_tests(TESTS), "bits_found": bits}
    measured = {name: certificate[name] for name in ("phases", "equal", "differences", "kills", "meshes")}
    return {"counts": write(counted), **measured}


def count_tests(names: Iterable[str]) -> dict[str, tuple[int, int]]:
    return {name: run_test(TESTS[name]) for name in names}


def write(counted: dict[str, tuple[int, int]]) -> dict[str, str]:
    return {name: f"{good}/{total}" for name, (good, total) in counted.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="bits in a made-up checkpoint alone")
    told = f"of {', '.join(TESTS)}: counted anew, the others as they were; default all, and kills and bits"
    parser.add_argument("names", nargs="*", metavar="NAME", help=told)
    parsed = parser.parse_args(arguments)
    if unknown := sorted(set(parsed.names) - set(TESTS)):
        parser.error(f"there is no count {', '.join(unknown)}; expected some of {', '.join(TESTS)}")
    if parsed.quick:
        with tempfile.TemporaryDirectory() as folder:
            results: dict[str, Any] = {"counts": write({"bits_found": flip_bits(make_checkpoint(Path(folder)))})}
    elif parsed.names:
        results = json.loads(RESULTS.read_text())["results"]
        results["counts"] |= write(count_tests(parsed.names))
    else:
        results = count_all()
    summary = {name: round(float(Fraction(count)), 6) for name, count in results["counts"].items()}
    print(json.dumps({"results": results, "summary": summary}))


if __name__ == "__main__":
    sys.exit(main())
