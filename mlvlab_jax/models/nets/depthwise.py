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
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k 1 c"], *, form: Form = "auto"
) -> Float[Array, "b h w c"]:
    """Every channel with its own k x k filter, k odd, zeros around the image.

    Args:
        x: Images.
        kernel: Filters, of the same dtype.
        form: shifted: a sum of shifted products, which the compiler makes one loop. grouped: XLA's convolution with a
            group for each channel, which takes many times as long on CPU. auto: shifted there, else grouped.
    """
    return _convolve(x, kernel, form)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(x: Array, kernel: Array, form: Form) -> Array:
    return _choose(form, _shifted, _grouped)(x, kernel)


def _forward(x: Array, kernel: Array, form: Form) -> tuple[Array, _Gradients]:
    return _convolve(x, kernel, form), (x, kernel)


def _backward(form: Form, kept: _Gradients, gradient: Array) -> _Gradients:
    return _choose(form, _shifted_gradients, _grouped_gradients)(*kept, gradient)


_convolve.defvjp(_forward, _backward)


def _choose(form: Form, shifted: Callable[..., Any], grouped: Callable[..., Any]) -> Callable[..., Any]:
    if form == "auto":
        return lambda *arrays: lax.platform_dependent(*arrays, cpu=shifted, default=grouped)
    return shifted if form == "shifted" else grouped


def _grouped(x: Array, kernel: Array) -> Array:
    dimensions = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=dimensions, feature_group_count=x.shape[-1]
    )


def _grouped_gradients(x: Array, kernel: Array, gradient: Array) -> _Gradients:
    return jax.vjp(_grouped, x, kernel)[1](gradient)


def _shifted(x: Array, kernel: Array) -> Array:
    products = [window * kernel[i : i + 1, j : j + 1] for (i, j), window in _windows(x, kernel.shape[0])]
    return functools.reduce(jnp.add, products)


def _shifted_gradients(x: Array, kernel: Array, gradient: Array) -> _Gradients:
    products = [(window * gradient).astype(jnp.float32) for _, window in _windows(x, kernel.shape[0])]
    # Sums of two rows of the filter in one pass, an example at a time: a pass for each takes ten times as long.
    at_once = 2 * kernel.shape[0]
    sums = [each for start in range(0, len(products), at_once) for each in _sum(products[start : start + at_once])]
    # The filter upside down and back to front gives each input what it gave to the outputs.
    return _shifted(gradient, kernel[::-1, ::-1]), jnp.stack(sums).reshape(kernel.shape).astype(kernel.dtype)


def _sum(products: list[Array]) -> list[Array]:
    """Each (b h w c) summed to (c), all in one loop."""

    def add(old: list[Array], new: list[Array]) -> list[Array]:
        return [a + b for a, b in zip(old, new, strict=True)]

    zeros = [jnp.zeros((), jnp.float32)] * len(products)
    return [each.sum(0) for each in lax.reduce(products, zeros, add, (1, 2))]


def _windows(x: Array, size: int) -> list[tuple[tuple[int, int], Array]]:
    """For each place (i, j) in the filter the image that it is multiplied with."""
    (_, h, w, _), half = x.shape, size // 2
    padded = jnp.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))
    return [((i, j), padded[:, i : i + h, j : j + w]) for i in range(size) for j in range(size)]
