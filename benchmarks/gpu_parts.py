"""The parts of gpu_suite.py: what each measures, how long that takes, and the rows of the table it gives."""

import dataclasses
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cases import Case, count_vit_flops
from pairs import Pair
from turns import Worker, WorkerError, compare, sum_up

NUM_REPEATS, TURN_S, PAUSE_S = 6, 0.8, 0.05


class LeftOut(Exception):  # noqa: N818 - no error
    """A part cannot be measured here; the words say why."""


def _vit(variant: str, batch_size: int, side: int = 224) -> Case:
    params = {"variant": variant, "patch_size": 16}
    return Case("vision_transformer", params, (side, side, 3), 1000, batch_size, "bfloat16")


def _tiny_vit(side: int = 32) -> Case:
    params = {"hidden_size": 32, "num_heads": 2, "num_layers": 2, "patch_size": 16}
    return Case("vision_transformer", params, (side, side, 3), 10, 4, "bfloat16")


def _convnext(
    depths: list[int], widths: list[int], image: tuple[int, int, int], num_classes: int, batch_size: int
) -> Case:
    params = {"depths": depths, "widths": widths, "patch_size": 4}
    return Case("convnext", params, image, num_classes, batch_size, "bfloat16")


CASES = {
    "vit_b": _vit("B", 256),
    "vit_s": _vit("S", 256),
    "vit_l": _vit("L", 128),
    "vit_b_384": _vit("B", 64, 384),
    "resnet50": Case("resnet", {"depth": 50}, (224, 224, 3), 1000, 256, "bfloat16"),
    "convnext_t": _convnext([3, 3, 9, 3], [96, 192, 384, 768], (224, 224, 3), 1000, 256),
}
SMOKE_CASES = {
    **{name: _tiny_vit() for name in ("vit_b", "vit_s", "vit_l")},
    "vit_b_384": _tiny_vit(48),
    "resnet50": Case("resnet", {"depth": 18}, (64, 64, 3), 10, 16, "bfloat16"),
    "convnext_t": _convnext([1] * 4, [8, 8, 16, 16], (32, 32, 3), 10, 4),
}
#: hidden_size, num_layers, mlp_dim of the transformers whose operations are counted.
_SIZES = {"vit_s": (384, 12, 1536), "vit_b": (768, 12, 3072), "vit_l": (1024, 24, 4096)}


@dataclasses.dataclass
class Suite:
    """What the parts work with. peer: None where there is none. about: what our side says of itself."""

    cases: Mapping[str, Case]
    ours: Worker
    peer: Worker | None
    about: Mapping[str, Any]
    smoke: bool
    timeout_s: float = 600.0

    def compare_steps(self, name: str, *kinds: str) -> dict[str, Any]:
        """Milliseconds a step of these kinds for a case; the batch is halved until both sides have the memory.

        Raises:
            WorkerError: A side failed for another reason.
        """
        case = self.cases[name]
        peer = self.peer if any(kind.startswith("torch") for kind in kinds) else None
        kinds = tuple(kind for kind in kinds if peer or not kind.startswith("torch"))
        while True:
            pair = Pair(case, self.ours, peer, self.timeout_s)
            try:
                equal = pair.make(check=False)
                prepared = pair.prepare(kinds, together="scan" not in kinds)  # whose time to compile is asked for
                break
            except WorkerError as error:
                if not _is_memory(str(error)) or case.batch_size < 16:
                    raise
                self.forget()
                case = dataclasses.replace(case, batch_size=case.batch_size // 2)
        repeats, turn_s = (1, 0.0) if self.smoke else (NUM_REPEATS, TURN_S)
        times = pair.time(kinds, num_repeats=repeats, turn_s=turn_s, pause_s=PAUSE_S)
        return {"case": repr(case), "batch_size": case.batch_size, "equal": equal, "prepared": prepared, "ms": times}

    def forget(self) -> None:
        """Both sides let go of their case."""
        for side in (self.ours, self.peer):
            if side:
                side.ask("forget", timeout_s=60)

    def close(self) -> None:
        """Ends both processes."""
        for side in (self.ours, self.peer):
            if side:
                side.close()

    def kill(self) -> None:
        """Ends both processes at once, whatever they do."""
        for side in (self.ours, self.peer):
            if side:
                side.kill()


@dataclasses.dataclass(frozen=True)
class Part:
    """One goal, or what is measured with one compilation. expected_s: on an H100, compilation included."""

    measure: Callable[[Suite], dict[str, Any]]
    rows: Callable[[dict[str, Any]], list[dict[str, Any]]]
    expected_s: float


def make_row(
    goal_id: str, what: str, value: float, *, floor: float | None = None, goal: float | None = None, lower: bool = False
) -> dict[str, Any]:
    """A row of the table; `lower` is better where it is true."""
    sign = -1 if lower else 1
    if goal is not None and sign * value >= sign * goal:
        verdict = "goal met"
    elif floor is not None and sign * value >= sign * floor:
        verdict = "floor met"
    else:
        verdict = "" if floor is None and goal is None else "missed"
    return {"id": goal_id, "what": what, "value": round(value, 4), "floor": floor, "goal": goal, "verdict": verdict}


def _is_memory(words: str) -> bool:
    return any(sign in words for sign in ("RESOURCE_EXHAUSTED", "OutOfMemory", "out of memory"))


def _ratio(ms: Mapping[str, list[float]], slow: str, fast: str) -> float:
    return statistics.median(compare(ms[slow], ms[fast]))


def _measure_against_torch(name: str, *more: str) -> Callable[[Suite], dict[str, Any]]:
    """Ours and the peer's; more: further kinds of ours."""

    def measure(suite: Suite) -> dict[str, Any]:
        found = suite.compare_steps(name, "ours", *more, "torch_compile") | {"left_out": {}}
        if suite.peer is None:
            found["left_out"] |= {f"{name} beside timm": "no interpreter with PyTorch and timm"}
        if name == "vit_b":
            with tempfile.TemporaryDirectory() as folder:
                saves = 2 if suite.smoke else 4
                found["saves"] = suite.ours.ask("save", folder=folder, num_saves=saves, timeout_s=suite.timeout_s)
        spread = {kind: sum_up(values) for kind, values in found["ms"].items()}
        return found | {"name": name, "peak_flops": suite.about["peak_flops"], "spread": spread}

    return measure


def _rate_rows(
    goal_id: str, words: str, measured: dict[str, Any], ratios: tuple[float, float], rate: float | None
) -> Iterator[dict[str, Any]]:
    ms = measured["ms"]
    images_a_second = 1e3 * measured["batch_size"] / statistics.median(ms["ours"])
    if "torch_compile" in ms:
        ratio = _ratio(ms, "torch_compile", "ours")
        yield make_row(goal_id, f"{words}: our rate / timm's", ratio, floor=ratios[0], goal=ratios[1])
        theirs = 1e3 * measured["batch_size"] / statistics.median(ms["torch_compile"])
        yield make_row(goal_id, f"{words}: timm, images/s, batch {measured['batch_size']}", theirs)
    yield make_row(goal_id, f"{words}: ours, images/s", images_a_second, goal=rate)
    if measured["peak_flops"] and measured["name"] in _SIZES:
        hidden, layers, mlp = _SIZES[measured["name"]]
        flops = count_vit_flops(hidden_size=hidden, num_layers=layers, mlp_dim=mlp, num_patches=196, patch_dim=768)
        share = images_a_second * flops / measured["peak_flops"]
        floor, goal = (0.38, 0.45) if goal_id == "G3" else (None, None)
        yield make_row(goal_id, f"{words}: MFU at {flops / 1e9:.1f} GFLOP an image", share, floor=floor, goal=goal)


def _rows_g1(measured: dict[str, Any]) -> list[dict[str, Any]]:
    ms = measured["ms"]
    rows = list(_rate_rows("G1", "ViT-B/16 at 224", measured, (0.95, 1.10), 3600))
    words = "cuDNN attention / XLA attention, step rate, N = 197"
    rows.append(make_row("G6", words, _ratio(ms, "xla_attention", "ours"), floor=1.03, goal=1.08))
    words = "engine's step / bare step, rate (the loop: see G7 below)"
    rows.append(make_row("G7", words, _ratio(ms, "bare", "ours"), floor=0.97, goal=0.99))
    saves = measured["saves"]
    blocked = statistics.median(saves["seconds"]["asynchronous"]) / (1e-3 * statistics.median(ms["ours"]))
    words = f"steps that a save of {saves['state_bytes'] / 1e9:.2f} GB blocks"
    return [*rows, make_row("G10", words, blocked, floor=2, goal=1, lower=True)]


def _rows_g2(measured: dict[str, Any]) -> list[dict[str, Any]]:
    return list(_rate_rows("G2", "ViT-S/16 at 224", measured, (0.95, 1.10), 9000))


def _rows_g3(measured: dict[str, Any]) -> list[dict[str, Any]]:
    rows = list(_rate_rows("G3", "ViT-L/16 at 224", measured, (0.95, 1.05), None))
    seconds = {kind: measured["prepared"][kind]["compile_s"] for kind in ("scan", "ours")}
    words, cost = "scan / unrolled at depth 24", _ratio(measured["ms"], "scan", "ours") - 1
    ratio = seconds["scan"] / seconds["ours"]
    rows.append(make_row("G8", f"{words}: compile time", ratio, floor=0.4, goal=0.25, lower=True))
    rows.append(make_row("G8", f"{words}: cost of a step", cost, floor=0.08, goal=0.05, lower=True))
    return rows


def _rows_g4(measured: dict[str, Any]) -> list[dict[str, Any]]:
    return list(_rate_rows("G4", "ResNet-50 at 224", measured, (0.8, 1.0), 3500))


def _rows_g5(measured: dict[str, Any]) -> list[dict[str, Any]]:
    rows = list(_rate_rows("G5", "ConvNeXt-T at 224", measured, (0.9, 1.2), None))
    ratio = _ratio(measured["ms"], "ours", "shifted")
    return [*rows, make_row("G5", "shifted products / grouped convolution, step rate", ratio)]


def _measure_long_attention(suite: Suite) -> dict[str, Any]:
    return suite.compare_steps("vit_b_384", "ours", "xla_attention")


def _rows_g6(measured: dict[str, Any]) -> list[dict[str, Any]]:
    ratio = _ratio(measured["ms"], "xla_attention", "ours")
    return [make_row("G6", "cuDNN attention / XLA attention, step rate, N = 577", ratio, floor=1.2, goal=1.4)]


def _measure_trainer(suite: Suite) -> dict[str, Any]:
    try:
        return suite.ours.ask("run_trainer", smoke=suite.smoke, timeout_s=suite.timeout_s)
    except WorkerError as error:
        if "ModuleNotFoundError" in str(error):
            raise LeftOut(f"the loop reads data, and what it reads with is not here ({error})") from error
        raise


def _rows_g7(measured: dict[str, Any]) -> list[dict[str, Any]]:
    ratio = statistics.median(measured["ours_over_bare"])
    wait = measured["input_wait"]
    return [
        make_row("G7", "trainer / bare, ViT-S/16, step rate", ratio, floor=0.97, goal=0.99),
        make_row("G7", "share of time waiting for input, data in memory", wait, floor=0.02, goal=0.005, lower=True),
    ]


#: In the order they are measured: the ones that count most first, should the time be cut off.
PARTS = {
    "G1": Part(_measure_against_torch("vit_b", "bare", "xla_attention"), _rows_g1, 130),
    "G2": Part(_measure_against_torch("vit_s"), _rows_g2, 60),
    "G4": Part(_measure_against_torch("resnet50"), _rows_g4, 80),
    "G3": Part(_measure_against_torch("vit_l", "scan"), _rows_g3, 130),
    "G6": Part(_measure_long_attention, _rows_g6, 60),
    "G7": Part(_measure_trainer, _rows_g7, 40),
    "G5": Part(_measure_against_torch("convnext_t", "shifted"), _rows_g5, 80),
}
