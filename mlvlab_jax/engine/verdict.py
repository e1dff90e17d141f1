"""Where a run's time went, in words, and what to try."""

import dataclasses

from mlvlab_jax.engine.goodput import Goodput

#: Share of all attempts' time above which a phase is named: about where a change of configuration repays its trouble.
#: Saving and lost work are named early, as both should be next to nothing.
LIMITS = {
    "input": 0.10,
    "compile": 0.20,
    "setup": 0.20,
    "evaluate": 0.20,
    "analyse": 0.20,
    "checkpoint": 0.05,
    "lost": 0.02,
}
#: Seconds below which a run is short: its setup and compilation, which do not grow with it, weigh more than they mean.
SHORT_S = 60.0


@dataclasses.dataclass(frozen=True)
class Circumstances:
    """What advice depends on.

    num_readers: threads or processes that read ahead; by_processes says which. num_cores: this process may use.
    in_memory: the training images are, decoded. packed: the source is a pack. num_programs, num_cached: compiled in
    this attempt, and found in the compile cache. cache_on: whether it is used. mfu: of the last window of training, in
    [0, 1]; None where unknown.
    """

    num_readers: int
    by_processes: bool
    num_cores: int
    in_memory: bool
    packed: bool
    cache_on: bool
    num_programs: int
    num_cached: int
    mfu: float | None = None


def judge(goodput: Goodput, circumstances: Circumstances) -> str:
    """One sentence for each phase above its limit in `LIMITS`, the largest first; or that nothing stands out."""
    total = goodput.total_s
    seconds = {**goodput.seconds, "setup": goodput.seconds["setup"] + goodput.seconds["import"]}
    shares = {phase: seconds[phase] / total for phase in LIMITS} if total else {}
    named = sorted((phase for phase in shares if shares[phase] >= LIMITS[phase]), key=lambda phase: -shares[phase])
    if not named:
        mfu = "" if circumstances.mfu is None else f", at {_percent(circumstances.mfu)} of the device's peak (MFU)"
        return f"Nothing stands out: {_percent(goodput.share)} of the time in training steps{mfu}."
    short = f" of a short run ({total:.0f} s)" if total < SHORT_S else " of the time"
    return " ".join(_SENTENCES[phase](f"{_percent(shares[phase])}{short}", goodput, circumstances) for phase in named)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _tell_input(share: str, goodput: Goodput, now: Circumstances) -> str:
    begin = f"Input-bound: {share} waiting for images"
    if now.in_memory:
        return f"{begin} that are in memory already; try a larger training.batch_size."
    tries = []
    if now.num_readers < now.num_cores:
        option = "pipeline.num_processes" if now.by_processes else "pipeline.num_threads"
        tries.append(f"{option}={now.num_cores} (now {now.num_readers}, on {now.num_cores} cores)")
    if not now.packed:
        tries.append("`mlvlab pack` with the size of training, which leaves less to read and decode")
    tries.append("pipeline.max_memory_mib, if the decoded images would fit")
    return f"{begin} to be read and decoded; try {'; or '.join(tries)}."


def _tell_compile(share: str, goodput: Goodput, now: Circumstances) -> str:
    begin = f"Compiling took {share}"
    if not now.cache_on:
        return f"{begin}; set compile_cache: true, and the next start reads the programs."
    if now.num_cached >= now.num_programs / 2:
        return f"{begin}, though {now.num_cached} of {now.num_programs} programs came from the compile cache."
    new = now.num_programs - now.num_cached
    return f"{begin}; {new} programs were new, and the larger ones are in the compile cache for the next start."


def _tell_setup(share: str, goodput: Goodput, now: Circumstances) -> str:
    decoding = ", and decoding the images into memory (pipeline.max_memory_mib)" if now.in_memory else ""
    return f"Setup took {share}: imports, opening and checking the data, initialising{decoding}."


def _tell_evaluate(share: str, goodput: Goodput, now: Circumstances) -> str:
    return f"Evaluation took {share}; try a larger evaluation.every_epochs or evaluation.batch_size."


def _tell_analyse(share: str, goodput: Goodput, now: Circumstances) -> str:
    return f"The analysis of the result took {share}; it comes once, after training."


def _tell_checkpoint(share: str, goodput: Goodput, now: Circumstances) -> str:
    return f"Saving took {share}; try a larger checkpoint.every_steps, or a faster disk."


def _tell_lost(share: str, goodput: Goodput, now: Circumstances) -> str:
    steps = f"{goodput.lost_steps:,} steps were made again after an attempt that ended without saving them"
    return f"Lost work: {share}; {steps}; try a smaller checkpoint.every_steps."


_SENTENCES = {
    "input": _tell_input,
    "compile": _tell_compile,
    "setup": _tell_setup,
    "evaluate": _tell_evaluate,
    "analyse": _tell_analyse,
    "checkpoint": _tell_checkpoint,
    "lost": _tell_lost,
}
