"""`python -m mlvlab_jax.probe --config FILE`: what a network's features tell of the classes of some data.

The network is that of the configuration, with its `weights`; the features of each split are computed once.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlvlab_jax.cli import add_config_arguments, run_configured
from mlvlab_jax.malloc import keep_freed_memory

if TYPE_CHECKING:
    from mlvlab_jax.config.load import LoadedConfig

_SHOTS = (1, 5, 10, 25)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    keep_freed_memory(arguments)
    parser = argparse.ArgumentParser(prog="mlvlab probe", description=__doc__)
    add_config_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parsed = parser.parse_args(arguments)
    return run_configured(parsed, lambda loaded: _probe(loaded, as_json=parsed.json))


def _probe(loaded: "LoadedConfig", *, as_json: bool) -> int:
    import numpy as np

    from mlvlab_jax.evaluation.features import extract_features
    from mlvlab_jax.evaluation.probe import learn_from_few, probe_linearly, vote_of_neighbours

    features, notes, num_classes = extract_features(loaded.config)
    train, test = features["train"], features["test"]
    linear = probe_linearly(train, features["validation"], test, num_classes=num_classes)
    few = learn_from_few(train, test, shots=_SHOTS, num_classes=num_classes)
    tree = {
        "num_examples": {name: len(split.label) for name, split in features.items()},
        "num_features": int(train.value.shape[1]),
        "linear": linear._asdict(),
        "neighbours": {"accuracy": vote_of_neighbours(train, test, num_classes=num_classes)},
        "few_shot": {str(shot): {"accuracy": float(np.mean(found)), "draws": found} for shot, found in few.items()},
        "notes": notes,
    }
    print(json.dumps(tree)) if as_json else _print(tree)
    return 0


def _print(tree: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    console = Console(highlight=False)
    for line in tree["notes"]:
        console.print(line, soft_wrap=True)
    sizes = ", ".join(f"{count:,} {name}" for name, count in tree["num_examples"].items())
    console.print(f"{tree['num_features']:,} features of {sizes} examples")
    table = Table("probe", Column("test accuracy", justify="right"), "", box=None)
    linear = tree["linear"]
    chosen = f"L2 penalty {linear['penalty']:g}, chosen on validation ({linear['validated']:.4f})"
    table.add_row("linear", f"{linear['accuracy']:.4f}", chosen)
    table.add_row("20 nearest neighbours", f"{tree['neighbours']['accuracy']:.4f}", "cosine, weighted")
    for shot, found in tree["few_shot"].items():
        spread = f"ridge; draws {min(found['draws']):.4f} to {max(found['draws']):.4f}"
        table.add_row(f"{shot} of each class", f"{found['accuracy']:.4f}", spread)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
