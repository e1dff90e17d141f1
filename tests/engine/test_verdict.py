import pytest

from mlvlab_jax.engine.goodput import Goodput
from mlvlab_jax.engine.telemetry import PHASES
from mlvlab_jax.engine.verdict import LIMITS, Circumstances, judge

FILES = Circumstances(
    num_readers=2,
    by_processes=False,
    num_cores=16,
    in_memory=False,
    packed=False,
    cache_on=True,
    num_programs=10,
    num_cached=0,
)


def ledger(*, lost_steps=0, scale=10.0, **percent):
    """A run of 1000 s unless scaled, of which `percent` went into other things than training."""
    seconds = dict.fromkeys((*PHASES, "lost"), 0.0) | {name: scale * value for name, value in percent.items()}
    seconds["train"] = 100 * scale - sum(seconds.values())
    return Goodput(1, seconds, lost_steps, 0.0)


def changed(**facts):
    return Circumstances(**(vars(FILES) | facts))


CASES = {
    "nothing": (ledger(setup=2, evaluate=2), FILES, "Nothing stands out: 96 % of the time in training steps."),
    "at a known peak": (
        ledger(setup=4),
        changed(mfu=0.384),
        "Nothing stands out: 96 % of the time in training steps, at 38 % of the device's peak (MFU).",
    ),
    "input": (
        ledger(input=31),
        FILES,
        "Input-bound: 31 % of the time waiting for images to be read and decoded; try pipeline.num_threads=16 (now 2, "
        "on 16 cores); or `mlvlab pack` with the size of training, which leaves less to read and decode; or "
        "pipeline.max_memory_mib, if the decoded images would fit.",
    ),
    "input of processes, packed": (
        ledger(input=31),
        changed(by_processes=True, packed=True),
        "Input-bound: 31 % of the time waiting for images to be read and decoded; try pipeline.num_processes=16 (now 2, "
        "on 16 cores); or pipeline.max_memory_mib, if the decoded images would fit.",
    ),
    "input with all cores": (
        ledger(input=31),
        changed(num_readers=16, packed=True),
        "Input-bound: 31 % of the time waiting for images to be read and decoded; try pipeline.max_memory_mib, if the "
        "decoded images would fit.",
    ),
    "input from memory": (
        ledger(input=31),
        changed(in_memory=True),
        "Input-bound: 31 % of the time waiting for images that are in memory already; try a larger training.batch_size.",
    ),
    "compiling, first time": (
        ledger(compile=40, scale=0.12),
        FILES,
        "Compiling took 40 % of a short run (12 s); 10 programs were new, and the larger ones are in the compile cache for "
        "the next start.",
    ),
    "compiling, cached": (
        ledger(compile=40, scale=0.12),
        changed(num_cached=9),
        "Compiling took 40 % of a short run (12 s), though 9 of 10 programs came from the compile cache.",
    ),
    "compiling, no cache": (
        ledger(compile=40),
        changed(cache_on=False),
        "Compiling took 40 % of the time; set compile_cache: true, and the next start reads the programs.",
    ),
    "evaluation": (
        ledger(evaluate=25),
        FILES,
        "Evaluation took 25 % of the time; try a larger evaluation.every_epochs or evaluation.batch_size.",
    ),
    "saving and lost work": (
        ledger(checkpoint=7, lost=9, lost_steps=1200),
        FILES,
        "Lost work: 9 % of the time; 1,200 steps were made again after an attempt that ended without saving them; try a "
        "smaller checkpoint.every_steps. Saving took 7 % of the time; try a larger checkpoint.every_steps, or a faster "
        "disk.",
    ),
    "setup": (
        ledger(setup=50, scale=0.2),
        changed(in_memory=True),
        "Setup took 50 % of a short run (20 s): imports, opening and checking the data, initialising, and decoding the "
        "images into memory (pipeline.max_memory_mib).",
    ),
    "analysis": (
        ledger(analyse=30),
        FILES,
        "The analysis of the result took 30 % of the time; it comes once, after training.",
    ),
    "no time at all": (ledger(scale=0.0), FILES, "Nothing stands out: 0 % of the time in training steps."),
}


@pytest.mark.parametrize("name", CASES)
def test_a_planted_ledger_is_judged(name):
    goodput, circumstances, expected = CASES[name]
    assert judge(goodput, circumstances) == expected


@pytest.mark.parametrize("phase", LIMITS)
def test_a_phase_is_named_from_its_limit_on(phase):
    below, at = (ledger(**{phase: 100 * LIMITS[phase] + more}) for more in (-0.1, 0.1))
    assert judge(below, FILES).startswith("Nothing stands out")
    assert not judge(at, FILES).startswith("Nothing stands out")
