"""`python -m mlvlab_jax.plan --config FILE`: memory, time and cost of a run, before anything runs."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlvlab_jax.cli import add_config_arguments, run_configured

if TYPE_CHECKING:
    from mlvlab_jax.config.load import LoadedConfig
    from mlvlab_jax.config.schema import Config


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="mlvlab plan", description=__doc__)
    add_config_arguments(parser)
    parser.add_argument("--topology", help="TPUs to plan for, such as v5e:4x4; they need not be here, libtpu must")
    parser.add_argument(
        "--mesh", help="sizes of the axes, such as data=8,fsdp=2; without --topology on that many fake CPU devices"
    )
    parser.add_argument("--num-classes", type=int, help="of data that is not here; with --num-train")
    parser.add_argument("--num-train", type=int, help="training examples of data that is not here")
    parser.add_argument("--memory", type=float, metavar="GIB", help="of a device (default: what is known of it)")
    parser.add_argument("--price", type=float, metavar="DOLLARS", help="of a device and hour (default: list price)")
    parser.add_argument("--search", action="store_true", help="compile other meshes and pieces too, and pick the best")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parsed = parser.parse_args(arguments)
    return run_configured(parsed, lambda loaded: _plan(parsed, loaded))


def _plan(parsed: argparse.Namespace, loaded: "LoadedConfig") -> int:
    from mlvlab_jax.planning.devices import open_devices, parse_mesh

    config = loaded.config
    if parsed.mesh is not None:
        from mlvlab_jax.planning.search import change

        config = change(config, {f"mesh.{axis}": size for axis, size in parse_mesh(parsed.mesh).items()})
    devices = open_devices(parsed.topology, config.mesh if parsed.mesh is not None else None)
    from mlvlab_jax.planning.plan import Target, make_plan
    from mlvlab_jax.planning.search import find_fit, search
    from mlvlab_jax.planning.shape import find_shape

    shape = find_shape(config, num_classes=parsed.num_classes, num_train=parsed.num_train)
    target = Target(devices, None if parsed.memory is None else parsed.memory * 2**30, parsed.price)

    def make(changed: "Config") -> Any:
        return make_plan(changed, shape, target)

    plan = make(config)
    found = search(plan, make) if parsed.search else None
    fit = find_fit(plan, make) if found is None and plan.fits is False else None
    if parsed.json:
        tree = plan.to_tree()
        tree["fits_with"] = None if fit is None else fit.to_tree()
        tree["candidates"] = None if found is None else [candidate.to_tree() for candidate in found]
        print(json.dumps(tree))
        return 0
    from rich.console import Console

    from mlvlab_jax.planning.printout import print_candidates, print_fit, print_plan

    console = Console(highlight=False)
    print_plan(plan, console=console)
    if found is not None:
        print_candidates(found, console=console)
    elif plan.fits is False:
        print_fit(fit, console=console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
