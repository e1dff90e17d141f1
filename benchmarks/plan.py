"""Goals T1 to T3: what the compiler says of ImageNet training on TPUs, none of which is here (libtpu is).

T1: MFU at the roofline of ViT-B/16 at 64 images a chip; T2: what fully sharded weights save of ViT-L, and their cost;
T3: whether a ViT of 1.0 billion parameters fits on 256 chips, and how it scales to them. Nothing is timed, so that the
figures do not depend on the machine; a program takes minutes to compile. Arguments name the cases to compile; the
others are then taken over from the last results, where the same compiler made them.
"""

import argparse
import importlib.util
import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from mlvlab_jax.config.load import config_from_tree
from mlvlab_jax.data.shape import DataShape
from mlvlab_jax.planning.devices import open_topology
from mlvlab_jax.types import ImageSpec

RESULTS = Path(__file__).with_name("results") / "plan.json"
SHAPE = DataShape(ImageSpec(224, 224, 3), 1000, 1_281_167)
GIANT = {"hidden_size": 1408, "num_heads": 16, "num_layers": 40, "mlp_dim": 6144, "patch_size": 14}
MODELS = {
    "vit_b": {"name": "vision_transformer", "params": {"variant": "B"}},
    "vit_l": {"name": "vision_transformer", "params": {"variant": "L"}},
    "vit_g": {"name": "vision_transformer", "params": GIANT},
    "resnet50": {"name": "resnet", "params": {"depth": 50}},
}
#: Images a chip and step, and chips that share a copy of the weights.
SIZES = {"vit_b": (64, 1), "vit_l": (16, 16), "vit_g": (8, 16), "resnet50": (64, 1)}
TOPOLOGIES = ("v5e:4x4", "v5e:16x16", "v5p:2x2x4", "v6e:4x4")
CASES = {f"{model} {topology}": (model, topology, *SIZES[model]) for topology in TOPOLOGIES for model in MODELS}
CASES["vit_l v5e:4x4 replicated"] = ("vit_l", "v5e:4x4", SIZES["vit_l"][0], 1)


def plan_case(model: str, topology: str, images: int, fsdp: int) -> dict[str, Any]:
    devices = open_topology(topology)
    from mlvlab_jax.planning.plan import Target, make_plan

    training = {"batch_size": images * len(devices), "precision": "bfloat16", "num_epochs": 90}
    tree = {"model": MODELS[model], "training": training, "mesh": {"fsdp": fsdp}}
    return make_plan(config_from_tree(tree), SHAPE, Target(devices)).to_tree()


def summarise(results: dict[str, Any]) -> dict[str, Any]:
    """The figures of the goals, of the cases that were compiled."""
    summary: dict[str, Any] = {}
    if base := results.get("vit_b v5e:4x4"):
        # As the goal is stated, by the compiler's own count, which takes what stays on the chip for main memory.
        compute, memory = base["traffic"]["compiler_flops"] / 197e12, base["traffic"]["compiler_bytes"] / 819e9
        summary["T1 MFU by cost_analysis"] = round(compute / max(compute, memory), 3)
        summary["T1 MFU by main-memory traffic"] = round(base["roofline"]["mfu"], 3)
    sharded, whole = results.get("vit_l v5e:4x4"), results.get("vit_l v5e:4x4 replicated")
    if sharded:
        sent = sum(each["sent_bytes"] for each in sharded["traffic"]["collectives"])
        summary["T2 sent / 3 x parameter bytes"] = round(sent / (3 * 4 * sharded["num_params"]), 3)
        summary["T2 collectives"] = {each["kind"]: each["sent_bytes"] for each in sharded["traffic"]["collectives"]}
    if sharded and whole:
        summary["T2 memory / replicated"] = round(sharded["needed_bytes"] / whole["needed_bytes"], 3)
    small, large = results.get("vit_g v5e:4x4"), results.get("vit_g v5e:16x16")
    if large:
        summary["T3 fits"] = large["fits"]
    if small and large and small["images_per_second"] and large["images_per_second"]:
        rates = large["images_per_second"] / small["images_per_second"]
        summary["T3 scaling from 16 to 256 chips"] = round(rates / 16, 3)
    return summary


def name_compiler() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("jax", "jaxlib", "libtpu")}


def read_last() -> dict[str, Any]:
    """Results by case that this compiler made before."""
    last = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    found: dict[str, Any] = last["results"] if last.get("compiler") == name_compiler() else {}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which of {', '.join(CASES)}; default all")
    names = parser.parse_args().names
    if importlib.util.find_spec("libtpu") is None:
        print(json.dumps({"results": {}, "summary": {"skipped": "no libtpu: pip install 'mlvlab_jax[tpu]'"}}))
        return
    results = (read_last() if names else {}) | {name: plan_case(*CASES[name]) for name in names or CASES}
    print(json.dumps({"compiler": name_compiler(), "results": results, "summary": summarise(results)}))


if __name__ == "__main__":
    sys.exit(main())
