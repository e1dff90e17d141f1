"""`mlvlab bench [NAME ...]`: measures, beside what one would use otherwise, and writes benchmarks/results."""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mlvlab_jax.cli import run_command
from mlvlab_jax.errors import ConfigError


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="mlvlab bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="which; default all; an unknown one lists them")
    names = parser.parse_args(arguments).names
    return run_command(lambda: subprocess.run([sys.executable, str(find_runner()), *names], check=False).returncode)


def find_runner() -> Path:
    """benchmarks/run.py of the checkout that this package is imported from.

    Raises:
        ConfigError: It was installed without one: the benchmarks are no part of the package.
    """
    runner = Path(__file__).parents[1] / "benchmarks" / "run.py"
    if not runner.exists():
        raise ConfigError(
            f"{runner}: not there; expected a checkout, since benchmarks are not installed; "
            "run this in a clone, after pip install --editable ."
        )
    return runner


if __name__ == "__main__":
    sys.exit(main())
