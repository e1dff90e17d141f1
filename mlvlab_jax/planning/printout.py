"""A plan in words for a person."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from mlvlab_jax.planning.plan import Plan
from mlvlab_jax.planning.search import Candidate, describe_changes

_KINDS = {
    "params": "parameters",
    "batch_statistics": "batch statistics",
    "optimizer": "optimiser state",
    "ema": "moving average",
    "batch": "batch",
    "activations": "activations, gradients, scratch",
    "padding": "padding",
    "outputs": "outputs",
    "program": "program",
}


def print_plan(plan: Plan, *, console: Console) -> None:
    """What one device holds and does in a step, and what the run takes."""
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan.step.mesh.items() if size > 1) or "one device"
    training = plan.config.training
    pieces = f" in {training.accumulation_steps} pieces" if training.accumulation_steps > 1 else ""
    console.print(
        f"[bold]{plan.num_devices} x {escape(plan.device)}[/bold] ({mesh}), {plan.step.num_params:,} parameters, "
        f"batch {training.batch_size}{pieces}, {training.precision}",
        soft_wrap=True,
    )
    table = Table(Column("a step, on each device", min_width=34), Column("", justify="right"), "", box=None)
    for kind, size in plan.step.memory.items():
        if size:
            table.add_row(_KINDS[kind], _bytes(size), "")
    table.add_row("[bold]memory at its fullest[/bold]", _bytes(plan.step.needed_bytes), _describe_capacity(plan))
    _add_work(table, plan)
    console.print(table)
    _print_run(plan, console)


def _describe_capacity(plan: Plan) -> str:
    if plan.capacity_bytes is None:
        return "of a device whose memory is unknown"
    word = "[green]fits[/green]" if plan.fits else "[red]does not fit[/red]"
    return f"of {_bytes(plan.capacity_bytes)}: {word}"


def _add_work(table: Table, plan: Plan) -> None:
    step, line = plan.step, plan.roofline
    times = {name: f"{1e3 * value:.2f} ms" for name, value in line.seconds.items()} if line else {}
    flops = "unknown" if step.flops is None else f"{step.flops / plan.num_devices / 1e12:.3f} TFLOP"
    table.add_row("arithmetic", flops, times.get("compute", ""))
    if step.traffic is None:
        return
    table.add_row("main memory read and written", _bytes(step.traffic.memory_bytes), times.get("memory", ""))
    sent = sum(collective.sent_bytes for collective in step.traffic.collectives)
    table.add_row("sent to other devices", _bytes(sent), times.get("network", ""))
    for collective in step.traffic.collectives:
        table.add_row(f"  {collective.count} x {collective.kind}", _bytes(collective.sent_bytes), "")


def _print_run(plan: Plan, console: Console) -> None:
    line, rate, hours = plan.roofline, plan.images_per_second, plan.hours
    if line is None or rate is None or hours is None:
        console.print("step time, images/s, hours and cost: unknown (no compiled step, or a peak that is not known)")
        return
    mfu = "unknown" if line.mfu is None else f"{100 * line.mfu:.1f} %"
    console.print(
        f"at best {1e3 * line.step_s:.2f} ms a step, bound by {line.bound}: {rate:,.0f} images/s, MFU {mfu}",
        soft_wrap=True,
    )
    cost = "cost unknown: give --price"
    if plan.dollars is not None and plan.dollars_per_hour is not None:
        cost = f"{plan.dollars:,.2f} dollars at {plan.dollars_per_hour:.2f} a device and hour ({plan.price_source})"
    console.print(f"{plan.step.num_steps:,} steps: at least {hours:,.2f} h, {cost}", soft_wrap=True)


def print_fit(fit: Candidate | None, *, console: Console) -> None:
    """The change that makes a run fit, if one was found."""
    if fit is None:
        console.print("none of the changes tried makes it fit; expected a smaller batch or model, or more devices")
        return
    console.print(
        f"fits with [bold]{escape(describe_changes(fit.changes))}[/bold]: {_bytes(fit.plan.step.needed_bytes)}",
        soft_wrap=True,
    )


def print_candidates(candidates: Sequence[Candidate], *, console: Console) -> None:
    """A table of the candidates of a search, and how to use the best."""
    right = [Column(name, justify="right") for name in ("memory", "fits", "step", "images/s", "MFU")]
    table = Table(Column("changes", overflow="fold"), *right, box=None)
    for candidate in candidates:
        plan = candidate.plan
        line, rate = plan.roofline, plan.images_per_second
        table.add_row(
            describe_changes(candidate.changes) or "as configured",
            _bytes(plan.step.needed_bytes),
            {True: "yes", False: "no", None: "unknown"}[plan.fits],
            "unknown" if line is None else f"{1e3 * line.step_s:.2f} ms",
            "unknown" if rate is None else f"{rate:,.0f}",
            "unknown" if line is None or line.mfu is None else f"{100 * line.mfu:.1f} %",
        )
    console.print(table)
    best = candidates[0]
    if best.plan.fits is False:
        console.print("none of them fits; expected a smaller batch or model, or more devices")
    elif best.changes:
        console.print(f"best: mlvlab train ... {describe_changes(best.changes)}", soft_wrap=True, highlight=False)
    else:
        console.print("best: as configured")


def _bytes(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"
