"""`python -m mlvlab_jax.tracking.replay FOLDER`: deliver to MLflow what a run could not deliver."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mlvlab_jax.errors import ConfigError, MlvlabError
from mlvlab_jax.files import exclusive_writer
from mlvlab_jax.tracking.delivery import Delivery
from mlvlab_jax.tracking.journal import NAME, read_records
from mlvlab_jax.tracking.lasting import LastingFile
from mlvlab_jax.tracking.mlflow import describe_rest
from mlvlab_jax.tracking.mlflow_store import MLflowStore, check_installed, import_mlflow


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code, 1 where the store still does not take everything."""
    parser = argparse.ArgumentParser(prog="python -m mlvlab_jax.tracking.replay", description=__doc__)
    parser.add_argument("folder", type=Path, help=f"folder that holds {NAME}")
    parser.add_argument("--uri", help="another store than the run's; it then gets all of the run")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="S", help="seconds to try (default: 60)")
    parsed = parser.parse_args(arguments)
    try:
        return _replay(parsed.folder, uri=parsed.uri, timeout_s=parsed.timeout)
    except MlvlabError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _replay(folder: Path, *, uri: str | None, timeout_s: float) -> int:
    path = folder / NAME
    if not path.is_file():
        raise ConfigError(f"{folder}: no {NAME}; expected the folder of a run that was tracked with MLflow")
    check_installed()
    import_mlflow()
    with exclusive_writer(folder):
        run = [record["run"] for record in read_records(path) if "run" in record][-1]
        run |= {"uri": uri} if uri else {}
        journal = LastingFile(path)
        reason = Delivery(journal, MLflowStore(run, folder=folder), interval_s=1.0).finish(timeout_s=timeout_s)
        journal.close()
    print(describe_rest(folder, run["uri"], reason) if reason else f"{run['uri']} has all of run {run['name']!r}")
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main())
