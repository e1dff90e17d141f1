"""`mlvlab verify-resume --config FILE --kills N`: kills a run again and again, and proves that it ends as if untouched.

The run is made once without a break. Then it is made again while signals, SIGKILL and SIGTERM, hit it: every second one
at a random moment, from the start to the report, the others as it compiles, evaluates or saves; each time it is started
again with the same command. Where one is through before all kills are spent, another is begun. Every one of them must
have the same last state, progress and metrics, bit for bit, the same examples in the same order, and no record missing
or there twice, in metrics.jsonl, TensorBoard and MLflow. With --mesh a run is made that goes on on another mesh after
each kill; its parameters must be the same up to rounding, all else as before. What was found is certificate.json.
"""

import argparse
import datetime
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlvlab_jax.cli import add_config_arguments, run_configured

if TYPE_CHECKING:
    from mlvlab_jax.config.load import LoadedConfig
    from mlvlab_jax.engine.kills import Killer, Place
    from mlvlab_jax.engine.outcome import Outcome

#: Not the same, as of `EX_SOFTWARE`.
_DIFFERENT = 70
_COUNT_FLAG = "--xla_force_host_platform_device_count"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 70 where a killed run ended otherwise than the unbroken one."""
    parser = argparse.ArgumentParser(
        prog="mlvlab verify-resume", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_arguments(parser)
    parser.add_argument("--kills", type=int, default=20, help="how often, on the mesh configured (default: 20)")
    parser.add_argument(
        "--mesh",
        action="append",
        default=[],
        metavar="data=N,fsdp=N,tensor=N",
        help="another mesh to go on on, axes left out being 1; repeatable; machines without accelerators get as many "
        "CPU devices as it takes",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-4,
        help="how far any array of parameters may be from the unbroken run's after a run across meshes, |a - b| / |a| "
        "(default: 1e-4); networks that amplify rounding need more, such as narrow ones with layer normalisation of "
        "empty image parts",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments and signals (default: 0)")
    parser.add_argument(
        "--workdir", type=Path, help="new folder for the runs (default: experiments/verify-resume/CONFIG-TIME)"
    )
    parsed = parser.parse_args(arguments)
    return run_configured(parsed, lambda loaded: _verify(parsed, loaded))


def _verify(parsed: argparse.Namespace, loaded: "LoadedConfig") -> int:
    from mlvlab_jax.errors import ConfigError

    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    workdir = parsed.workdir or Path("experiments") / "verify-resume" / f"{loaded.name}-{now}"
    if parsed.kills < 1:
        raise ConfigError(f"--kills {parsed.kills}: expected 1 or more")
    if workdir.exists():
        raise ConfigError(f"{workdir}: is there already; expected a new folder; give another --workdir")
    places = _find_places(parsed)
    from mlvlab_jax.engine.kills import Killer

    workdir.mkdir(parents=True)
    configs = [word for path in parsed.config for word in ("--config", str(path))]
    killer = Killer([sys.executable, "-m", "mlvlab_jax.train", *configs, *parsed.overrides], seed=parsed.seed)
    print(f"one run without a break, then {parsed.kills} kills; runs and logs in {workdir}", flush=True)
    killer.run_through(workdir / "unbroken")
    print(f"without a break: {killer.seconds:.1f} s", flush=True)
    folders: list[Path] = []
    while len(killer.kills) < parsed.kills:
        folders.append(workdir / f"killed-{len(folders)}")
        before = len(killer.kills)
        killer.run_with_kills(folders[-1], most=parsed.kills - before)
        print(f"{folders[-1].name}: through after {len(killer.kills) - before} kills", flush=True)
    across = _run_across(killer, workdir, places) if places else []
    return _certify(parsed, loaded, killer, workdir, (folders, across))


def _find_places(parsed: argparse.Namespace) -> "list[Place]":
    """The meshes asked for, each checked as far as it can be without a run."""
    if not parsed.mesh:
        return []
    from mlvlab_jax.config.load import load_config
    from mlvlab_jax.engine.kills import Place
    from mlvlab_jax.errors import ConfigError

    asked = []
    for text in parsed.mesh:
        axes = {"data": "1", "fsdp": "1", "tensor": "1"} | dict(part.partition("=")[::2] for part in text.split(","))
        overrides = tuple(f"mesh.{axis}={size}" for axis, size in axes.items())
        mesh = load_config(parsed.config, [*parsed.overrides, *overrides]).config.mesh
        if mesh.data < 1:
            raise ConfigError(f"--mesh {text}: data is {mesh.data}; expected a number of devices, 1 or more")
        asked.append((text, overrides, mesh.data * mesh.fsdp * mesh.tensor))
    platform, num_devices = _describe_devices()
    places = []
    for text, overrides, product in asked:
        if platform != "cpu" and product != num_devices:
            raise ConfigError(
                f"--mesh {text}: makes {product} devices; expected the {num_devices} of this machine ({platform}); "
                "change an axis, or take a machine without accelerators"
            )
        places.append(Place(text, overrides, _make_cpus(product) if platform == "cpu" else {}))
    return places


def _describe_devices() -> tuple[str, int]:
    """Platform and number of the devices a run would see, asked by a process of its own, which lets go of them."""
    code = "import jax; print(jax.devices()[0].platform, jax.device_count())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    return told[0], int(told[1])


def _make_cpus(number: int) -> dict[str, str]:
    kept = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith(_COUNT_FLAG)]
    return {"XLA_FLAGS": " ".join([*kept, f"{_COUNT_FLAG}={number}"])}


def _run_across(killer: "Killer", workdir: Path, places: "Sequence[Place]") -> list[Path]:
    """Runs from mesh to mesh, until each of the meshes has made steps that last; as many runs as there are at most."""
    from mlvlab_jax.engine.kills import Place

    folders: list[Path] = []
    todo = [Place(), *places]
    for number in range(len(todo)):
        folders.append(workdir / f"meshes-{number}")
        before = len(killer.kills)
        killer.run_across(folders[-1], todo, most=2 * len(todo))
        kills = killer.kills[before:]
        print(f"{folders[-1].name}: through after {len(kills)} kills, each on another mesh", flush=True)
        if len({kill["mesh"] for kill in kills}) == len(todo):
            break
        todo = [*todo[1:], todo[0]]
    return folders


def _certify(
    parsed: argparse.Namespace,
    loaded: "LoadedConfig",
    killer: "Killer",
    workdir: Path,
    folders: tuple[Sequence[Path], Sequence[Path]],
) -> int:
    os.environ["JAX_PLATFORMS"] = "cpu"  # arrays are only read here
    from mlvlab_jax.config.load import compute_hash
    from mlvlab_jax.engine.outcome import list_differences, list_gaps, read_outcome
    from mlvlab_jax.files import write_json

    expected = read_outcome(workdir / "unbroken")
    found = {"unbroken": expected.strays}
    found |= {folder.name: list_differences(expected, read_outcome(folder)) for folder in folders[0]}
    across = _describe_across(workdir, folders[1], parsed.tolerance) if folders[1] else {}
    for folder in folders[1]:
        found[folder.name] = list_gaps(expected, read_outcome(folder))
        if (apart := across["measured"][folder.name]) > parsed.tolerance:
            found[folder.name].append(f"parameters {apart:.2g} apart, expected at most {parsed.tolerance:g}")
    manifest = json.loads((workdir / "unbroken" / "manifest.json").read_text())
    certificate = {
        "equal": not any(found.values()),
        "config_hash": compute_hash(loaded.config),
        "seed": parsed.seed,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        **_describe(expected),
        "differences": found,
        "phases": killer.phases,
        "kills": killer.kills,
        "meshes": across,
        "seconds_unbroken": round(killer.seconds, 2),
        **{name: manifest["sessions"][-1][name] for name in ("versions", "python", "devices", "git")},
    }
    write_json(workdir / "certificate.json", certificate)
    _print_verdict(certificate, workdir, across=[folder.name for folder in folders[1]])
    return 0 if certificate["equal"] else _DIFFERENT


def _print_verdict(certificate: dict[str, Any], workdir: Path, *, across: Sequence[str]) -> None:
    for name, lines in certificate["differences"].items():
        same = "the same up to rounding" if name in across else "bit for bit the same"
        print(f"{name}: {same if not lines else 'DIFFERENT'}")
        for line in lines[:10]:
            print(f"  {line}")
    hit = ", ".join(f"{phase} {number}" for phase, number in sorted(certificate["phases"].items()))
    verdict = "equal" if certificate["equal"] else "NOT equal"
    print(f"{len(certificate['kills'])} kills ({hit}): {verdict}; {workdir / 'certificate.json'}")


def _describe(outcome: "Outcome") -> dict[str, Any]:
    return {
        "steps": outcome.step,
        "state_sha256": outcome.digest,
        "examples_crc32": f"{outcome.progress['examples']:08x}",
        "num_arrays": len(outcome.digests),
        "num_records": len(outcome.records),
    }


def _describe_across(workdir: Path, folders: Sequence[Path], tolerance: float) -> dict[str, Any]:
    """Tolerance and distance of the runs across meshes, and how many of their steps were made on each mesh."""
    from mlvlab_jax.engine.outcome import measure_distance

    distances = {folder.name: max(measure_distance(workdir / "unbroken", folder).values()) for folder in folders}
    steps: dict[str, int] = {}
    for mesh, made in itertools.chain.from_iterable(map(_count_steps, folders)):
        steps[mesh] = steps.get(mesh, 0) + made
    return {"tolerance": tolerance, "measured": distances, "steps": steps}


def _count_steps(folder: Path) -> list[tuple[str, int]]:
    """Mesh of each attempt at a run, and how many steps it made that last."""
    from mlvlab_jax.engine.goodput import read_ledger

    sessions = json.loads((folder / "manifest.json").read_text())["sessions"]
    attempts = read_ledger(folder / "goodput.jsonl")
    ends = [*(attempt.first_step for attempt in attempts[1:]), attempts[-1].step]
    made = [end - attempt.first_step for attempt, end in zip(attempts, ends, strict=True)]
    names = [",".join(f"{axis}={size}" for axis, size in session["mesh"].items() if size > 1) for session in sessions]
    return list(zip([name or "one device" for name in names], made, strict=True))


if __name__ == "__main__":
    sys.exit(main())
