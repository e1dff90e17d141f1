"""What the benchmarks answer: a row for each question, where its number stands in the results, and what is wanted."""

import dataclasses
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


@dataclasses.dataclass(frozen=True)
class Question:
    """One row.

    file: stem in benchmarks/results. value: keys below "summary" (of several numbers the worst counts). repeats: keys
    of the list of all repeats, where there is one. floor and goal: None where none is set. lower: lower is better.
    """

    text: str
    against: str
    file: str
    value: str
    repeats: tuple[str, ...] = ()
    floor: float | None = None
    goal: float | None = None
    lower: bool = False
    unit: str = ""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What was measured. repeats: as they were taken, or empty."""

    question: Question
    value: float
    repeats: tuple[float, ...]
    date: str
    machine: str

    @property
    def verdict(self) -> str:
        """goal, floor, missed, or nothing where nothing is wanted."""
        for name in ("goal", "floor"):
            wanted = getattr(self.question, name)
            if wanted is not None and (self.value <= wanted if self.question.lower else self.value >= wanted):
                return name
        return "" if self.question.floor is None and self.question.goal is None else "missed"

    @property
    def spread(self) -> tuple[float, float] | None:
        """Quartiles of four or more repeats."""
        if len(self.repeats) < 4:
            return None
        low, _, high = statistics.quantiles(self.repeats, n=4, method="inclusive")
        return low, high


def _steps() -> Iterator[Question]:
    names = {
        "C1_vit_28": "training step, ViT (28 x 28, width 128, depth 6)",
        "C1_vit_s_224": "training step, ViT-S/16 at 224",
        "C2_resnet18_32": "training step, ResNet-18 at 32 x 32",
        "C3_convnext_t_224": "training step, ConvNeXt-T at 224",
        "resnet50_224": "training step, ResNet-50 at 224",
        "mixer_s_224": "training step, Mixer-S/16 at 224",
        "efficientnet_v2_b0_224": "training step, EfficientNetV2-B0 at 224",
    }
    peers = {
        "C1": {"torch_eager": (0.75, 1.1), "torch_compile": (0.7, 1.0), "bare": (None, None)},
        "C2": {"torch_eager": (0.4, 0.75), "torch_compile": (None, None), "bare": (None, None)},
        "C3": {"grouped": (3, 8), "torch_eager": (0.5, 0.9), "torch_compile": (None, None)},
    }
    words = {"torch_eager": "PyTorch, eager", "torch_compile": "torch.compile", "bare": "bare JAX"}
    words["grouped"] = "XLA's grouped convolution"
    for name, text in names.items():
        for peer, (floor, goal) in peers.get(
            name[:2], {"torch_eager": (None, None), "torch_compile": (None, None)}
        ).items():
            repeats = ("results", name, "our_rate_over", peer)
            yield Question(f"{text}: rate", words[peer], "step_time", f"{name}_over_{peer}", repeats, floor, goal)
        repeats = ("results", name, "tuned", "our_rate_over_torch_eager")
        peer = "PyTorch, eager, with our malloc settings"
        yield Question(f"{text}: rate", peer, "step_time", f"{name}_over_torch_eager_tuned", repeats)
    words["torch_compile_tuned"] = "torch.compile with our malloc settings"
    for peer, limits in {
        "torch_eager": (1.1, 0.8),
        "torch_compile": (None, None),
        "torch_compile_tuned": (None, None),
    }.items():
        text, value = "Fashion-MNIST to 93.0 %, whole command: time", f"C13_over_{peer}"
        yield Question(text, words[peer], "time_to_accuracy", value, (), *limits, lower=True)


def _data() -> Iterator[Question]:
    kinds = {"": "", "_packed": ", packed", "_fast": ", fast", "_fast_packed": ", fast, packed"}
    for kind, words in kinds.items():
        text, repeats = f"500 x 375 JPEG to 224 x 224 batches{words}: rate", ("results", "ratios", f"C6{kind}")
        yield Question(text, "PyTorch DataLoader, PIL", "data_loading", f"C6{kind}", repeats, 1.5, 2.5)
    for kind, words in kinds.items():
        repeats = ("results", "ratios", f"C7{kind}")
        peer = "twice a thread's full decoding"
        yield Question(f"the same{words}: rate", peer, "data_loading", f"C7{kind}", repeats, 0.8, 1.3)
    for kind, words in {"": "in memory", "_streamed": "streamed"}.items():
        text, repeats = f"epoch of 28 x 28 records, {words}: rate", ("results", "ratios", f"C8{kind}")
        yield Question(text, "stock Grain DataLoader", "data_loading", f"C8{kind}", repeats, 5, 20)


def _serving() -> Iterator[Question]:
    for model in ("tiny", "wide", "vit"):
        text = f"requests a second at 32 clients, {model} model"
        yield Question(text, "one at a time", "serving", f"C11_{model}_requests", floor=2, goal=4)
    yield Question(
        "latency of ViT-Ti, one image",
        "ONNX Runtime",
        "serving_latency",
        "c12_ours_over_onnxruntime",
        floor=1.5,
        goal=1.0,
        lower=True,
    )
    yield Question("p99 of answers while watched", "unwatched", "watching_cost", "p99_watched", goal=1.05, lower=True)
    yield Question("false alarms of drift", "", "drift", "M1_false_alarms", goal=0.01, lower=True)
    yield Question("shifts found within two windows", "", "drift", "M2_found_within_two_windows", goal=0.95)


def _dispatch() -> Iterator[Question]:
    name = "several updates a dispatch, update under 5 ms: rate"
    yield Question(name, "one update a dispatch", "steps_per_dispatch", "C5_several_over_one", (), 1.1, 1.5)
    ours, peer = "24 blocks in one loop", "a program for each block"
    for text, which, floor, goal in (("time to compile", "compile", 0.4, 0.25), ("step time", "step", 1.08, 1.05)):
        value, repeats = f"{which}_scanned_over_unrolled", ("ratios", which)
        yield Question(f"{ours}: {text}", peer, "compile_time", value, repeats, floor, goal, lower=True)
    text, repeats = "clock, ledger and profiler: time a step", ("results", "us_a_step")
    yield Question(text, "", "telemetry_cost", "us_a_step", repeats, goal=20, lower=True, unit="us")


def _plans() -> Iterator[Question]:
    text = "roofline MFU of ViT-B/16 on v5e:4x4, as compiled"
    yield Question(text, "", "plan", "T1 MFU by cost_analysis", floor=0.45, goal=0.6)
    name = "ViT-L, 16 chips, sharded weights"
    yield Question(f"{name}: memory", "a copy on each", "plan", "T2 memory / replicated", (), 0.6, 0.3, lower=True)
    text, peer = f"{name}: bytes sent", "3 x bytes of the weights"
    yield Question(text, peer, "plan", "T2 sent / 3 x parameter bytes", (), 1.3, 1.05, lower=True)
    text = "ViT-g from 16 to 256 chips, of linear at the roofline"
    yield Question(text, "", "plan", "T3 scaling from 16 to 256 chips", goal=0.9)
    for name in ("data", "fsdp", "tensor", "fsdp and tensor"):
        text, value = f"ViT-S on 1 to 8 devices, {name}: of linear at the roofline", f"{name}: of linear from 1 to 8"
        yield Question(text, "", "scaling", value)


def _faults() -> Iterator[Question]:
    rows = {
        "kills_identical": "30 kills of verify-resume: runs that end as if untouched",
        "phases_of_sigterm": "SIGTERM in each phase: saved, and gone on with",
        "signals_at_random": "SIGTERM at 20 random moments: saved, and gone on with",
        "second_signals": "a second signal: ended within a second, the last save whole",
        "kills_while_reading_ahead": "killed twice, then before what was read ahead is used: as if untouched",
        "signals_to_one_of_two": "a signal to one of two processes: both stop after the same step",
        "kills_of_one_of_two": "one of two processes killed: the run ends as if untouched",
        "hangs_ended": "a process that is stuck: all end, and it is named",
        "uneven_steps_without_alarm": "1,000 uneven steps: no alarm",
        "processes_agree": "the same run in 1, 2 and 4 processes: the same examples and losses",
        "bits_found": "a bit flipped in any file of a checkpoint: found",
    }
    for value, text in rows.items():
        yield Question(text, "", "faults", value, goal=1)
    text = "what verifying adds to a restore"
    spread = ("results", "ratios", "verification")
    yield Question(text, "the rest of it", "checkpoint", "verification", spread, goal=0.05, lower=True)


QUESTIONS = (
    *_steps(),
    *_dispatch(),
    *(
        Question(
            f"trainer with everything on, {model}: step rate",
            "bare JAX loop",
            "trainer_overhead",
            name,
            ("results", name, "ours_over_bare"),
            0.95,
            0.99,
        )
        for name, model in {"digits": "digits CNN", "digits_vit_tiny": "digits ViT"}.items()
    ),
    Question(
        "time a save stops training",
        "a synchronous save",
        "checkpoint",
        "C10_blocked",
        ("results", "ratios", "C10_blocked"),
        0.25,
        0.08,
        lower=True,
    ),
    Question("start to first step, warm compile cache", "cold", "startup", "warm_over_cold", (), 0.5, 0.25, lower=True),
    Question("--help", "", "startup", "help_s", ("results", "help_s"), 0.5, 0.3, lower=True, unit="s"),
    Question(
        "a configuration error",
        "",
        "startup",
        "config_error_s",
        ("results", "config_error_s"),
        0.5,
        0.3,
        lower=True,
        unit="s",
    ),
    *_plans(),
    *_faults(),
    *_data(),
    *_serving(),
    Question(
        "step while the MLflow database is locked",
        "without MLflow",
        "tracker_down",
        "T18_step_time",
        goal=1.01,
        lower=True,
    ),
    Question("peak memory, digits", "", "memory", "digits_peak_rss_mb", ("results", "digits"), lower=True, unit="MB"),
    Question(
        "peak memory, Fashion-MNIST's first half epoch",
        "",
        "memory",
        "fashion_mnist_cnn_peak_rss_mb",
        ("results", "fashion_mnist_cnn"),
        lower=True,
        unit="MB",
    ),
)


def read_answers(folder: Path) -> list[Answer]:
    """What the results in `folder` say, in the order of the questions; what was not measured is not there."""
    found = []
    for question in QUESTIONS:
        path = folder / f"{question.file}.json"
        content = json.loads(path.read_text()) if path.exists() else {}
        value = content.get("summary", {}).get(question.value)
        if isinstance(value, Mapping):
            value = (max if question.lower else min)(value.values())
        if not isinstance(value, int | float):
            continue
        machine = f"{content['num_cores']} cores, {content['cpu']}"
        found.append(Answer(question, float(value), _read_repeats(content, question), content["date"], machine))
    return found


def _read_repeats(content: Mapping[str, Any], question: Question) -> tuple[float, ...]:
    place: Any = content
    for key in question.repeats:
        place = place.get(key, ()) if isinstance(place, Mapping) else ()
    return tuple(map(float, place)) if question.repeats and isinstance(place, Sequence) else ()
