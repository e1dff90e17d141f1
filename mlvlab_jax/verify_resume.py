"""`mlvlab verify-resume --config FILE --kills N`: kills a run again and again, and proves that it ends as if untouched.

The run is made once without a break. Then it is made again while signals, half of them SIGKILL and half SIGTERM, hit it
at random moments: while it starts, compiles, trains, evaluates, saves or writes its report; each time it is started
again with the same command. Where one is through before all kills are spent, another is begun. Every one of them must
have the same last state, progress and metrics, bit for bit, no record missing and none there twice. What was found is
written as certificate.json.
"""

import argparse
import datetime
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlvlab_jax.cli import add_config_arguments, run_configured

if TYPE_CHECKING:
    from mlvlab_jax.config.load import LoadedConfig
    from mlvlab_jax.engine.outcome import Outcome

_SIGNALS = (signal.SIGKILL, signal.SIGTERM)
#: What a run may take beyond the time of the unbroken one before it is taken for stuck.
_PATIENCE, _PATIENCE_S = 10, 120
#: Not the same, as of `EX_SOFTWARE`.
_DIFFERENT = 70


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 70 where a killed run ended otherwise than the unbroken one."""
    parser = argparse.ArgumentParser(
        prog="mlvlab verify-resume", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_arguments(parser)
    parser.add_argument("--kills", type=int, default=20, help="how often a run is killed in all (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and signals (default: 0)")
    parser.add_argument(
        "--workdir", type=Path, help="new folder for the runs (default: experiments/verify-resume/CONFIG-TIME)"
    )
    parsed = parser.parse_args(arguments)
    return run_configured(parsed, lambda loaded: _verify(parsed, loaded))


class Killer:
    """Starts runs of one command, and kills them at random moments.

    Args:
        command: Trains; the folder is added.
        seed: Of moments and signals.
    """

    def __init__(self, command: Sequence[str], *, seed: int) -> None:
        self._command = tuple(command)
        self._random = random.Random(seed)
        self._environment = dict(os.environ)
        self.seconds = 0.0
        self.kills: list[dict[str, Any]] = []

    def run_through(self, folder: Path) -> None:
        """One run without a break, whose time the moments are taken from."""
        started = time.monotonic()
        with self._start(folder) as child:
            self._check(folder, child.wait())
        self.seconds = time.monotonic() - started

    def run_with_kills(self, folder: Path, *, most: int) -> None:
        """One run that is killed at most so often, to its end."""
        for _ in range(most):
            if self._kill_once(folder):
                return
        with self._start(folder) as child:
            self._check(folder, self._wait(child, folder))

    def _kill_once(self, folder: Path) -> bool:
        """Whether the run was through before the signal came."""
        number, delay = self._random.choice(_SIGNALS), self._random.uniform(0, self.seconds)
        with self._start(folder) as child:
            try:
                self._check(folder, child.wait(timeout=delay))
            except subprocess.TimeoutExpired:
                child.send_signal(number)
                code = self._wait(child, folder)
                after = round(delay, 3)
                self.kills.append({"run": folder.name, "signal": number.name, "after_s": after, "exit_code": code})
                return False
        return True

    def _start(self, folder: Path) -> "subprocess.Popen[bytes]":
        with (folder.parent / f"{folder.name}.log").open("ab") as log:
            command = [*self._command, "--workdir", str(folder)]
            return subprocess.Popen(command, stdout=log, stderr=log, env=self._environment)

    def _wait(self, child: "subprocess.Popen[bytes]", folder: Path) -> int:
        from mlvlab_jax.errors import MlvlabError

        limit = _PATIENCE * self.seconds + _PATIENCE_S
        try:
            return child.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            child.kill()
            raise MlvlabError(f"{folder}: still running after {limit:.0f} s; see {folder}.log") from None

    def _check(self, folder: Path, code: int) -> None:
        from mlvlab_jax.errors import MlvlabError

        if code:
            raise MlvlabError(f"{folder}: training ended with exit code {code}; see {folder}.log")


def _verify(parsed: argparse.Namespace, loaded: "LoadedConfig") -> int:
    from mlvlab_jax.errors import ConfigError

    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    workdir = parsed.workdir or Path("experiments") / "verify-resume" / f"{loaded.name}-{now}"
    if parsed.kills < 1:
        raise ConfigError(f"--kills {parsed.kills}: expected 1 or more")
    if workdir.exists():
        raise ConfigError(f"{workdir}: is there already; expected a new folder; give another --workdir")
    workdir.mkdir(parents=True)
    configs = [word for path in parsed.config for word in ("--config", str(path))]
    killer = Killer([sys.executable, "-m", "mlvlab_jax.train", *configs, *parsed.overrides], seed=parsed.seed)
    print(f"one run without a break, then {parsed.kills} kills; runs and logs in {workdir}", flush=True)
    unbroken = workdir / "unbroken"
    killer.run_through(unbroken)
    print(f"without a break: {killer.seconds:.1f} s", flush=True)
    folders: list[Path] = []
    while len(killer.kills) < parsed.kills:
        folders.append(workdir / f"killed-{len(folders)}")
        before = len(killer.kills)
        killer.run_with_kills(folders[-1], most=parsed.kills - before)
        print(f"{folders[-1].name}: through after {len(killer.kills) - before} kills", flush=True)
    return _certify(parsed, loaded, killer, workdir, folders)


def _certify(
    parsed: argparse.Namespace, loaded: "LoadedConfig", killer: Killer, workdir: Path, folders: Sequence[Path]
) -> int:
    os.environ["JAX_PLATFORMS"] = "cpu"  # arrays are only read here
    from mlvlab_jax.config.load import compute_hash
    from mlvlab_jax.engine.outcome import list_differences, read_outcome
    from mlvlab_jax.files import write_json

    expected = read_outcome(workdir / "unbroken")
    found = {folder.name: list_differences(expected, read_outcome(folder)) for folder in folders}
    manifest = json.loads((workdir / "unbroken" / "manifest.json").read_text())
    certificate = {
        "equal": not any(found.values()),
        "config_hash": compute_hash(loaded.config),
        "seed": parsed.seed,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        **_describe(expected),
        "differences": found,
        "kills": killer.kills,
        "seconds_unbroken": round(killer.seconds, 2),
        **{name: manifest["sessions"][-1][name] for name in ("versions", "python", "devices", "git")},
    }
    write_json(workdir / "certificate.json", certificate)
    for name, lines in found.items():
        print(f"{name}: {'bit for bit the same' if not lines else 'DIFFERENT'}")
        for line in lines[:10]:
            print(f"  {line}")
    verdict = "equal" if certificate["equal"] else "NOT equal"
    print(f"{len(folders)} runs, {len(killer.kills)} kills: {verdict}; {workdir / 'certificate.json'}")
    return 0 if certificate["equal"] else _DIFFERENT


def _describe(outcome: "Outcome") -> dict[str, Any]:
    arrays, records = len(outcome.digests), len(outcome.records)
    return {"steps": outcome.step, "state_sha256": outcome.digest, "num_arrays": arrays, "num_records": records}


if __name__ == "__main__":
    sys.exit(main())
