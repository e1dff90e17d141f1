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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlvlab_jax.engine.integrity import find_damage, seal
from mlvlab_jax.engine.recovery import list_steps

ROOT = Path(__file__).parents[1]
NUM_KILLS, BITS_PER_FILE = 30, 12
MESHES = ("data=4", "data=2,fsdp=2")

_STOPPING, _PEERS = "tests/end_to_end/test_stopping.py", "tests/end_to_end/test_peers.py"
#: What is counted -> the test that does it, each of whose cases counts.
TESTS = {
    "phases_of_sigterm": f"{_STOPPING}::test_a_run_asked_to_stop_saves_and_goes_on_when_started_again",
    "signals_to_one_of_two": f"{_PEERS}::test_one_process_asked_at_a_random_moment_stops_both_after_the_same_step",
    "kills_of_one_of_two": f"{_PEERS}::test_either_of_two_killed_at_a_random_moment_goes_on",
    "hangs_ended": f"{_PEERS}::test_a_stuck_process_ends_both_within_the_limit_and_ten_seconds",
    "uneven_steps_without_alarm": f"{_PEERS}::test_a_thousand_uneven_steps_raise_no_alarm",
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


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="bits in a made-up checkpoint alone")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which of {', '.join(TESTS)}; default all")
    parsed = parser.parse_args(arguments)
    tests = {name: TESTS[name] for name in parsed.names or TESTS}
    counted: dict[str, tuple[int, int]] = {}
    phases: dict[str, int] = {}
    measured: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if parsed.quick:
            checkpoint = make_checkpoint(Path(folder))
        else:
            certificate = kill(Path(folder) / "proof", num_kills=NUM_KILLS)
            counted["kills_identical"], phases = count_identical(certificate), certificate["phases"]
            measured = {name: certificate[name] for name in ("equal", "differences", "kills", "meshes")}
            checkpoints = Path(folder) / "proof" / "unbroken" / "checkpoints"
            checkpoint = checkpoints / str(list_steps(checkpoints)[-1])
            counted |= {name: run_test(test) for name, test in tests.items()}
        counted["bits_found"] = flip_bits(checkpoint)
    counts = {name: f"{good}/{total}" for name, (good, total) in counted.items()}
    summary = {name: round(good / total, 6) for name, (good, total) in counted.items()}
    print(json.dumps({"results": {"counts": counts, "phases": phases, **measured}, "summary": summary}))


if __name__ == "__main__":
    sys.exit(main())
