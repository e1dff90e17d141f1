"""Arithmetic of a model, counted on its trace."""

import math
from collections.abc import Callable
from typing import Any

import jax


def count_flops(function: Callable[..., Any], *args: Any) -> float | None:
    """Floating-point operations of the matrix products and convolutions of a call; None where they are not known.

    A multiply-add is two. The count is of the trace, before the compiler: a loop counts as often as it runs (XLA's own
    cost analysis counts its body once), an attention kernel as the two products it stands for, a part that each device
    computes for itself as often as there are devices. A while loop around products, and a kernel in another language,
    have no known count. Element-wise arithmetic is left out.

    Args:
        function: Traced, never run.
        *args: Arrays or their shapes.
    """
    try:
        return _count(jax.make_jaxpr(function)(*args))
    except _UnknownCountError:
        return None


class _UnknownCountError(Exception):
    """Something was met that cannot be counted."""


def _count(program: Any) -> float:
    return sum(_count_equation(equation) for equation in program.eqns)


def _count_equation(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    shapes: list[tuple[int, ...]] = [getattr(each.aval, "shape", ()) for each in (*equation.invars, *equation.outvars)]
    if name == "dot_general":
        contracted, _ = params["dimension_numbers"][0]
        return 2.0 * math.prod(shapes[-1]) * math.prod(shapes[0][dim] for dim in contracted)
    if name == "conv_general_dilated":
        kernel, out_dim = shapes[1], params["dimension_numbers"].rhs_spec[0]
        return 2.0 * math.prod(shapes[-1]) * math.prod(kernel) / kernel[out_dim]
    if name.startswith("dot_product_attention_fwd"):  # query (b t n h), key (b s n h)
        return 4.0 * math.prod(shapes[0]) * shapes[1][1]
    inner = [_count(each) for each in _list_programs(params)]
    if name == "cond":
        return max(inner)
    if "pallas" in name or name == "ffi_call" or (name == "while" and any(inner)):
        raise _UnknownCountError(name)
    times = {"scan": lambda: params["length"], "shard_map": lambda: params["mesh"].size}.get(name, lambda: 1)()
    return float(times * sum(inner))


def _list_programs(params: dict[str, Any]) -> list[Any]:
    """Of an equation's parameters, those that are programs: open or closed jaxprs, one or several."""
    listed: list[Any] = []
    for value in params.values():
        listed += value if isinstance(value, tuple | list) else [value]
    return [each for each in listed if hasattr(each, "eqns")]
