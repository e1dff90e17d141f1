"""`mlvlab data show --config FILE --out PAGE.html`: look at the training images before training on them."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlvlab_jax.cli import add_config_arguments, run_configured

if TYPE_CHECKING:
    from mlvlab_jax.config.load import LoadedConfig

_NUM_VERSIONS = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="mlvlab data", description=__doc__)
    parser.add_argument("action", choices=["show"], help="what to do with the data")
    add_config_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, help="HTML file to write")
    parser.add_argument("--num-examples", type=int, default=48, help="examples on the page (default 48)")
    parsed = parser.parse_intermixed_args(arguments)
    return run_configured(parsed, lambda loaded: _show(parsed, loaded))


def _show(parsed: argparse.Namespace, loaded: "LoadedConfig") -> int:
    config = loaded.config
    import jax
    import jax.numpy as jnp
    import numpy as np

    from mlvlab_jax.data.open import open_data
    from mlvlab_jax.data.page import describe_label, write_examples
    from mlvlab_jax.data.stream import train_stream
    from mlvlab_jax.engine.step import augment_batch

    rules = config.pipeline.augment
    data = open_data(config.data, config.pipeline, seed=config.seed)
    count = min(parsed.num_examples, len(data.train))
    bad: list[object] = []
    batch = next(train_stream(data.train, batch_size=count, num_steps=1, seed=config.seed, on_bad=bad.extend))
    key = jax.random.key_data(jax.random.key(config.seed))
    change = jax.jit(lambda batch: augment_batch(key, batch, rules))
    versions = [change({**batch, "epoch": jnp.full(count, epoch, jnp.int32)}) for epoch in range(_NUM_VERSIONS)]
    sizes = ", ".join(f"{len(split):,} {name}" for name, split in data.splits.items())
    later = any(rule is not None for rule in (rules.erasing, rules.mixup, rules.cutmix))
    missing = " Erasing, mixup and cutmix come after normalisation and are not shown." if later else ""
    skipped = f" {len(bad)} unreadable files were met and left out." if bad else ""
    write_examples(
        parsed.out,
        np.stack([batch["image"], *versions], axis=1),
        labels=[describe_label(label, data.class_names) for label in batch["label"]],
        names=[data.train.source.name(i) for i in batch["example_id"].tolist()],
        title=f"{loaded.name}: {sizes}; {len(data.class_names)} classes, images of {'x'.join(map(str, data.spec))}",
        summary=f"The first {count} examples of training: as decoded (outlined), then as augmented in the first "
        f"{_NUM_VERSIONS} epochs.{missing}{skipped}",
    )
    print(f"{count} examples on {parsed.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
