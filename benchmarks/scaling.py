"""What more devices cost: the training step of ViT-S/16 compiled for 1 to 8 fake devices, 32 images on each.

Nothing is timed, since fake devices share one processor. Read from the compiled programs: what each device computes and
what it sends, by kind of exchange. From that and the peaks of a real device follows how much of linear scaling is left:
at worst, where nothing is computed while something is sent, and at best, where both overlap entirely. The CPU's
compiler adds up whole gradients where an accelerator's sends each device its part (reduce-scatter), and adds bfloat16
up as float32, so that what is sent here for sharded weights and for tensor is an upper bound; benchmarks/plan.py
compiles for real ones.
"""

import argparse
import json
import math
import sys
from typing import Any

from mlvlab_jax.config.load import config_from_tree
from mlvlab_jax.data.shape import DataShape
from mlvlab_jax.hardware import find_hardware
from mlvlab_jax.planning.devices import open_cpus
from mlvlab_jax.types import ImageSpec

IMAGES_PER_DEVICE = 32
PEAKS_OF = "TPU v5e"
COUNTS = (1, 2, 4, 8)
#: Way of sharing the work -> the mesh of n devices.
MESHES = {
    "data": lambda n: {"data": n},
    "fsdp": lambda n: {"fsdp": n},
    "tensor": lambda n: {"data": max(1, n // 2), "tensor": min(n, 2)},
    "fsdp and tensor": lambda n: {"fsdp": max(1, n // 2), "tensor": min(n, 2)},
}
MODEL = {"name": "vision_transformer", "params": {"variant": "S"}}
QUICK_MODEL = {
    "name": "vision_transformer",
    "params": {"hidden_size": 32, "num_heads": 2, "num_layers": 1, "mlp_dim": 64, "patch_size": 56},
}


def measure(mesh: dict[str, int], model: dict[str, Any]) -> dict[str, Any]:
    """What one of the mesh's devices computes, sends and holds in a step."""
    num_devices = math.prod(mesh.values())
    devices = open_cpus(max(COUNTS))[:num_devices]
    from mlvlab_jax.planning.plan import Target, make_plan

    training = {"batch_size": IMAGES_PER_DEVICE * num_devices, "precision": "bfloat16"}
    config = config_from_tree({"model": model, "training": training, "mesh": mesh})
    plan = make_plan(config, DataShape(ImageSpec(224, 224, 3), 1000, 1_281_167), Target(devices)).to_tree()
    collectives = plan["traffic"]["collectives"]
    return {
        "mesh": mesh,
        "num_devices": num_devices,
        "num_params": plan["num_params"],
        "flops": plan["traffic"]["compiler_flops"],
        "sent_bytes": sum(each["sent_bytes"] for each in collectives),
        "sent_by_kind": {each["kind"]: each["sent_bytes"] for each in collectives},
        "count_by_kind": {each["kind"]: each["count"] for each in collectives},
        "needed_bytes": plan["needed_bytes"],
    }


def weigh(one: dict[str, Any], many: dict[str, Any]) -> dict[str, float]:
    """Parts of linear scaling from one device to many, at worst and at best."""
    hardware = find_hardware(PEAKS_OF)
    assert hardware is not None
    alone, compute = (each["flops"] / hardware.bfloat16_flops for each in (one, many))
    network = many["sent_bytes"] / hardware.link_bandwidth
    return {"apart": round(alone / (compute + network), 3), "overlapped": round(alone / max(compute, network), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tiny network on two devices: whether it runs")
    quick = parser.parse_args().quick
    model, counts = (QUICK_MODEL, COUNTS[:2]) if quick else (MODEL, COUNTS)
    alone = measure({"data": 1}, model)
    results: dict[str, Any] = {"one device": alone}
    summary: dict[str, Any] = {}
    for name, shape in MESHES.items():
        for count in counts[1:]:
            measured = measure(shape(count), model)
            measured["scaling"] = weigh(alone, measured)
            results[f"{name} {count}"] = measured
        summary[f"{name}: of linear from 1 to {counts[-1]}"] = measured["scaling"]
        summary[f"{name}: MB sent a device and step"] = round(measured["sent_bytes"] / 1e6, 1)
    print(json.dumps({"peaks of": PEAKS_OF, "results": results, "summary": summary}))


if __name__ == "__main__":
    sys.exit(main())
