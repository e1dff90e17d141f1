"""Goals C1 to C3, and every model: our training step beside bare JAX, PyTorch's eager mode and torch.compile.

Both train the same network from the same weights. They are two processes that take turns; the one that is not timed
sleeps in a read. Before that, both compute loss and gradient at the same weights on the same batch, which must agree to
1e-4 (a deep network's gradient to what float32 gives), and the loss after one update to 1e-3. Ours has the malloc
settings of training (mlvlab_jax.malloc), PyTorch is as it comes; "tuned" is its eager mode with those settings. C3 is
ConvNeXt-T, ours also with XLA's grouped convolution in place of its own form of the depthwise one.

The peer needs an interpreter with what benchmarks/requirements-torch.txt lists: --torch-python PATH, TORCH_PYTHON, or
--make-torch, which makes one.
"""

import argparse
import datetime
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cases import Case
from pairs import Pair, rates_over, start_jax, start_torch
from torch_python import find_torch_python
from turns import Worker, sum_up

OURS, PEERS = ("ours", "bare"), ("torch_eager", "torch_compile")
NUM_REPEATS, TURN_S, PAUSE_S, TIMEOUT_S = 7, 3.0, 0.3, 1200.0
RESULTS = Path(__file__).parent / "results" / "step_time.json"
_SMALL_VIT = {"hidden_size": 128, "num_heads": 4, "num_layers": 6, "patch_size": 4}
_TINY_VIT = {"hidden_size": 16, "num_heads": 2, "num_layers": 2, "patch_size": 4}
_CONVNEXT_T = {"depths": [3, 3, 9, 3], "widths": [96, 192, 384, 768]}
CASES = {
    "C1_vit_28": Case("vision_transformer", _SMALL_VIT, (28, 28, 1), 10, 128),
    "C1_vit_s_224": Case("vision_transformer", {"variant": "S", "patch_size": 16}, (224, 224, 3), 1000, 16),
    "C2_resnet18_32": Case("resnet", {"depth": 18, "stem": "small"}, (32, 32, 3), 10, 32),
    "C3_convnext_t_224": Case("convnext", {**_CONVNEXT_T, "patch_size": 4}, (224, 224, 3), 1000, 4),
    # Through 53 batch normalisations of 8 images, our gradient is 1.4e-4 off the one in float64, PyTorch's 2.0e-4.
    "resnet50_224": Case("resnet", {"depth": 50}, (224, 224, 3), 1000, 8, gradient_limit=5e-4),
    "mixer_s_224": Case("mixer", {"hidden_size": 512, "num_layers": 8, "patch_size": 16}, (224, 224, 3), 1000, 16),
    "efficientnet_v2_b0_224": Case("efficientnet_v2", {"variant": "B0"}, (224, 224, 3), 1000, 8),
}
QUICK_CASES = {
    "C1_tiny": Case("vision_transformer", _TINY_VIT, (8, 8, 1), 10, 4),
    "C2_tiny": Case("resnet", {"depth": 18, "stem": "small"}, (8, 8, 3), 10, 4),
    "C3_tiny": Case("convnext", {"depths": [1] * 4, "widths": [4, 4, 8, 8], "patch_size": 1}, (8, 8, 3), 10, 4),
    "mixer_tiny": Case("mixer", {"hidden_size": 16, "num_layers": 2, "patch_size": 4}, (8, 8, 3), 10, 4),
    "efficientnet_tiny": Case("efficientnet_v2", {"variant": "B0"}, (32, 32, 3), 10, 4),
}


def measure_case(case: Case, ours: Worker, peer: Worker | None, *, quick: bool) -> dict[str, Any]:
    """How equal the sides are, seconds of compilation, milliseconds a step by kind and the ratios."""
    pair = Pair(case, ours, peer, TIMEOUT_S)
    kinds = (*OURS, *(("grouped",) if case.network == "convnext" else ()), *(PEERS if peer else ()))
    equal = pair.make(check=True)
    prepared = pair.prepare(kinds, together=False)
    num_repeats, turn_s = (1, 0.0) if quick else (NUM_REPEATS, TURN_S)
    times = pair.time(kinds, num_repeats=num_repeats, turn_s=turn_s, pause_s=0.0 if quick else PAUSE_S)
    return {
        "case": repr(case),
        "equal": equal,
        "prepared": prepared,
        "milliseconds_a_step": times,
        "our_rate_over": rates_over(times),
    }


def measure_tuned(case: Case, ours: Worker, peer: Worker, *, quick: bool) -> dict[str, Any]:
    """Milliseconds a step beside a peer with our settings of malloc, and the ratios, both under names of their own."""
    pair = Pair(case, ours, peer, TIMEOUT_S)
    pair.make(check=False)
    pair.prepare(("ours", "torch_eager"), together=False)
    num_repeats, turn_s = (1, 0.0) if quick else (NUM_REPEATS, TURN_S)
    pause_s = 0.0 if quick else PAUSE_S
    times = pair.time(("ours", "torch_eager"), num_repeats=num_repeats, turn_s=turn_s, pause_s=pause_s)
    return {"tuned": {"milliseconds_a_step": times, "our_rate_over_torch_eager": rates_over(times)["torch_eager"]}}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    told = f"of {', '.join(CASES)}: measured anew, the others as they were; default all"
    parser.add_argument("names", nargs="*", metavar="CASE", help=told)
    parser.add_argument("--torch-python", help="interpreter with PyTorch and timm; default TORCH_PYTHON")
    parser.add_argument("--make-torch", action="store_true", help="make its environment if there is none")
    parser.add_argument("--quick", action="store_true", help="tiny networks, one turn: whether it runs, no numbers")
    parsed = parser.parse_args(arguments)
    python, peer = find_torch_python(parsed.torch_python, make=parsed.make_torch)
    known = QUICK_CASES if parsed.quick else CASES
    if unknown := sorted(set(parsed.names) - set(known)):
        parser.error(f"there is no case {', '.join(unknown)}; expected some of {', '.join(known)}")
    kept = read_last() if parsed.names and not parsed.quick else {}
    results = {"peer": peer} | {name: kept[name] for name in known if name in kept}
    for name in parsed.names or known:
        results[name] = measure_both_ways(known[name], python, quick=parsed.quick)
    summary = summarise({name: results[name] for name in known if name in results})
    summary |= {} if python else {"torch": f"left out: {peer}"}
    print(json.dumps({"unit": "our step rate over theirs", "results": results, "summary": summary}))


def read_last() -> dict[str, Any]:
    """Results by case that are there."""
    found: dict[str, Any] = json.loads(RESULTS.read_text())["results"] if RESULTS.exists() else {}
    return found


def measure_both_ways(case: Case, python: str | None, *, quick: bool) -> dict[str, Any]:
    """Beside the peer as it comes and with our settings of malloc, or, where there is none, our side alone."""
    with start_jax() as ours:
        if python is None:
            measured = measure_case(case, ours, None, quick=quick)
        else:
            with start_torch(python) as peer:
                measured = measure_case(case, ours, peer, quick=quick)
            with start_torch(python, tuned=True) as peer:
                measured |= measure_tuned(case, ours, peer, quick=quick)
    spreads = {f"over_{kind}": sum_up(ratios) for kind, ratios in measured["our_rate_over"].items()}
    return {"date": datetime.datetime.now(datetime.UTC).date().isoformat(), **measured, **spreads}


def summarise(results: Mapping[str, Any]) -> dict[str, Any]:
    """The median of each ratio."""
    summary: dict[str, Any] = {}
    for name, measured in results.items():
        for kind, ratios in measured["our_rate_over"].items():
            summary[f"{name}_over_{kind}"] = round(statistics.median(ratios), 3)
        if "tuned" in measured:
            ratios = measured["tuned"]["our_rate_over_torch_eager"]
            summary[f"{name}_over_torch_eager_tuned"] = round(statistics.median(ratios), 3)
    return summary


if __name__ == "__main__":
    sys.exit(main())
