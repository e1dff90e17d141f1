"""Convolution of each channel with a filter of its own, the fast way on each platform."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Form = Literal["auto", "shifted", "grouped"]
_Gradients = tuple[Array, Array]


def depthwise_conv(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k 1 c"], *, form: Form = "auto", stride: int = 1
) -> Float[Array, "b h2 w2 c"]:
    """Every channel with its own k x k filter, k odd, zeros around the image ("SAME": one more after than before).

    Args:
        x: Images.
        kernel: Filters, of the same dtype.
        form: shifted: a sum of shifted products, which the compiler makes one loop. grouped: XLA's convolution with a
            group for each channel, which takes many times as long on CPU. auto: shifted there, else grouped.
        stride: Of every how many rows and columns an output is made, at most k.
    """
    return _convolve(x, kernel, form, stride)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x: Array, kernel: Array, form: Form, stride: int) -> Array:
    return _choose(form, stride, _shifted, _grouped)(x, kernel)


def _forward(x: Array, kernel: Array, form: Form, stride: int) -> tuple[Array, _Gradients]:
    return _convolve(x, kernel, form, stride), (x, kernel)


def _backward(form: Form, stride: int, kept: _Gradients, gradient: Array) -> _Gradients:
    return _choose(form, stride, _shifted_gradients, _grouped_gradients)(*kept, gradient)


_convolve.defvjp(_forward, _backward)


def _choose(form: Form, stride: int, shifted: Callable[..., Any], grouped: Callable[..., Any]) -> Callable[..., Any]:
    shifted, grouped = (functools.partial(each, stride=stride) for each in (shifted, grouped))
    if form == "auto":
        return lambda *arrays: lax.platform_dependent(*arrays, cpu=shifted, default=grouped)
    return shifted if form == "shifted" else grouped


def _grouped(x: Array, kernel: Array, *, stride: int) -> Array:
    dimensions = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=dimensions, feature_group_count=x.shape[-1]
    )


def _grouped_gradients(x: Array, kernel: Array, gradient: Array, *, stride: int) -> _Gradients:
    return jax.vjp(functools.partial(_grouped, stride=stride), x, kernel)[1](gradient)


def _shifted(x: Array, kernel: Array, *, stride: int) -> Array:
    return _sum_products(_windows(x, kernel.shape[0], stride), kernel)


def _shifted_gradients(x: Array, kernel: Array, gradient: Array, *, stride: int) -> _Gradients:
    size = kernel.shape[0]
    products = [(window * gradient).astype(jnp.float32) for window in _windows(x, size, stride)]
    # Sums of two rows of the filter in one pass, an example at a time: a pass for each takes ten times as long.
    at_once = 2 * size
    sums = [each for start in range(0, len(products), at_once) for each in _sum(products[start : start + at_once])]
    # The filter upside down and back to front gives each input what it gave to the outputs; between these are zeros.
    paddings = [(size - 1 - before, size - 1 - after, stride - 1) for before, after in _paddings(x.shape, size, stride)]
    spread = lax.pad(gradient, jnp.zeros((), gradient.dtype), [(0, 0, 0), *paddings, (0, 0, 0)])
    back = _sum_products(_cut(spread, x.shape[1:3], size, 1), kernel[::-1, ::-1])
    return back, jnp.stack(sums).reshape(kernel.shape).astype(kernel.dtype)


def _sum_products(windows: list[Array], kernel: Array) -> Array:
    filters = [kernel[i : i + 1, j : j + 1] for i in range(kernel.shape[0]) for j in range(kernel.shape[0])]
    return functools.reduce(jnp.add, [window * each for window, each in zip(windows, filters, strict=True)])


def _sum(products: list[Array]) -> list[Array]:
    """Each (b h w c) summed to (c), all in one loop."""

    def add(old: list[Array], new: list[Array]) -> list[Array]:
        return [a + b for a, b in zip(old, new, strict=True)]

    zeros = [jnp.zeros((), jnp.float32)] * len(products)
    return [each.sum(0) for each in lax.reduce(products, zeros, add, (1, 2))]


def _windows(x: Array, size: int, stride: int) -> list[Array]:
    """For each place in the filter, row by row, the image that it is multiplied with."""
    padded = jnp.pad(x, ((0, 0), *_paddings(x.shape, size, stride), (0, 0)))
    return _cut(padded, (-(-x.shape[1] // stride), -(-x.shape[2] // stride)), size, stride)


def _cut(padded: Array, shape: tuple[int, ...], size: int, stride: int) -> list[Array]:
    rows, columns = (stride * (length - 1) + 1 for length in shape)
    return [padded[:, i : i + rows : stride, j : j + columns : stride] for i in range(size) for j in range(size)]


def _paddings(shape: tuple[int, ...], size: int, stride: int) -> list[tuple[int, int]]:
    """Zeros before and after the rows, and the columns, of an image."""
    totals = [max(0, stride * (-(-length // stride) - 1) + size - length) for length in shape[1:3]]
    return [(total // 2, total - total // 2) for total in totals]
