"""One run on the TPU machines of a Ray cluster, by Ray Train's JaxTrainer.

`python scripts/launch/ray_train.py --topology 4x4 --accelerator TPU-V6E --workers 4 -- --config configs/digits.yaml
--workdir /shared/runs/digits`

Ray joins the processes; training sees that and goes on from there. The run folder must be seen by all machines.
"""

import argparse
from collections.abc import Sequence
from typing import Any

#: Ends that are no failure: done, and saved with more to do.
_DONE, _SAVED = 0, 75


def train(config: dict[str, Any]) -> None:
    """What each worker does."""
    from mlvlab_jax.train import main

    code = main(config["arguments"])
    if code == _SAVED:
        raise RuntimeError("interrupted and saved; to go on, start it again")
    if code != _DONE:
        raise SystemExit(code)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, required=True, help="machines")
    parser.add_argument("--topology", required=True, help="of the TPU slice, such as 4x4")
    parser.add_argument("--accelerator", required=True, help="as Ray calls it, such as TPU-V6E")
    parser.add_argument("--max-failures", type=int, default=10, help="how often to start again (default: 10)")
    parser.add_argument("training", nargs="+", metavar="-- ARGUMENT", help="arguments of mlvlab train")
    parsed = parser.parse_args(arguments)
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.jax import JaxTrainer

    scaling = ScalingConfig(
        use_tpu=True, num_workers=parsed.workers, topology=parsed.topology, accelerator_type=parsed.accelerator
    )
    JaxTrainer(
        train,
        train_loop_config={"arguments": parsed.training},
        scaling_config=scaling,
        run_config=RunConfig(failure_config=FailureConfig(max_failures=parsed.max_failures)),
    ).fit()


if __name__ == "__main__":
    main()
