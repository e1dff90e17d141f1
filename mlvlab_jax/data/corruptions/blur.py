"""Blur of optics and of movement."""

import math

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, Int, Key

from mlvlab_jax.data.corruptions.noise import Image, Scalar

#: Side of the images that lengths are given for.
SIDE = 224
#: Largest radius of the strengths, which the size of kernels follows.
_RADIUS = {"defocus": 10, "motion": 20}
_ZOOM_STEPS = 11


def scale_of(image: Image) -> float:
    """Pixels of this image to one of 224."""
    return min(image.shape[:2]) / SIDE


def defocus_blur(image: Image, key: Key[Array, ""], strength: Float[Array, "2"]) -> Image:
    """A disk of radius `strength[0]`, its edge softened by a Gaussian of `strength[1]` pixels."""
    scale = scale_of(image)
    reach = math.ceil(_RADIUS["defocus"] * scale) + 1
    y, x = jnp.mgrid[-reach : reach + 1, -reach : reach + 1].astype(jnp.float32)
    distance = jnp.sqrt(x**2 + y**2)
    softness = jnp.maximum(strength[1] * 2, 0.5)
    disk = jnp.clip((strength[0] * scale - distance) / softness + 0.5, 0, 1)
    # Below a pixel the disk is the pixel itself and what spills over.
    disk = disk.at[reach, reach].max(1e-3)
    return filter_image(image, disk / disk.sum())


def motion_blur(image: Image, key: Key[Array, ""], strength: Float[Array, "2"]) -> Image:
    """Along a line of half a Gaussian of `strength[1]` pixels, cut off at `strength[0]`, at up to 45 degrees."""
    scale = scale_of(image)
    angle = jax.random.uniform(key, (), minval=-jnp.pi / 4, maxval=jnp.pi / 4)
    return move_along(image, angle, strength[0] * scale, strength[1] * scale)


def move_along(image: Image, angle: Scalar, radius: Scalar, sigma: Scalar) -> Image:
    """The image moved along a line at `angle` for up to `radius` pixels, the mean by half a Gaussian."""
    steps = math.ceil(_RADIUS["motion"] * scale_of(image)) * 2 + 1
    at = jnp.arange(steps) / 2
    weight = jnp.where(at <= radius, jnp.exp(-0.5 * (at / jnp.maximum(sigma, 1e-3)) ** 2), 0)
    shift = at[:, None] * jnp.stack([jnp.sin(angle), jnp.cos(angle)])[None]
    moved = jax.vmap(lambda by: displace(image, by[0], by[1]))(shift)
    return jnp.tensordot(weight / weight.sum(), moved, 1)


def zoom_blur(image: Image, key: Key[Array, ""], strength: Scalar) -> Image:
    """The mean of the image and of it enlarged in steps up to `strength` times."""
    factors = jnp.linspace(1.0, strength, _ZOOM_STEPS)
    zoomed = jax.vmap(lambda factor: zoom(image, factor))(factors)
    return (image + zoomed.sum(0)) / (_ZOOM_STEPS + 1)


def glass_blur(image: Image, key: Key[Array, ""], strength: Float[Array, "3"]) -> Image:
    """Blurred, pixels moved at random by up to `strength[1]`, `strength[2]` times, and blurred again."""
    scale = scale_of(image)
    sigma, reach = strength[0] * scale, jnp.maximum(strength[1] * scale, 1)  # below a pixel nothing moves
    rows, columns = jnp.mgrid[: image.shape[0], : image.shape[1]]

    def shuffle(turn: Int[Array, ""], pixels: Image) -> Image:
        by = jnp.round(jax.random.uniform(jax.random.fold_in(key, turn), (2, *image.shape[:2]), minval=-1) * reach)
        row = jnp.clip(rows + by[0].astype(int), 0, image.shape[0] - 1)
        column = jnp.clip(columns + by[1].astype(int), 0, image.shape[1] - 1)
        return pixels[row, column]

    return blur(jax.lax.fori_loop(0, strength[2].astype(int), shuffle, blur(image, sigma)), sigma)


def blur(image: Image, sigma: Scalar) -> Image:
    """A Gaussian of `sigma` pixels; near the edge only pixels inside count."""

    def weights(size: int) -> Float[Array, "n n"]:
        place = jnp.arange(size, dtype=jnp.float32)
        weight = jnp.exp(-0.5 * ((place[:, None] - place[None, :]) / jnp.maximum(sigma, 1e-3)) ** 2)
        return weight / weight.sum(-1, keepdims=True)

    return jnp.einsum("uh,hwc,vw->uvc", weights(image.shape[0]), image, weights(image.shape[1]))


def filter_image(image: Image, kernel: Float[Array, "k k"]) -> Image:
    """Each channel filtered by the same kernel, the edges continued."""
    reach = kernel.shape[0] // 2
    planes = jnp.moveaxis(jnp.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="edge"), -1, 0)[:, None]
    filtered = jax.lax.conv_general_dilated(planes, kernel[None, None], (1, 1), "VALID")
    return jnp.moveaxis(filtered[:, 0], 0, -1)


def displace(image: Image, rows: Array, columns: Array) -> Image:
    """The image at places that many pixels away, bilinear, reflected at the edges; one for all or for each."""
    y, x = jnp.mgrid[: image.shape[0], : image.shape[1]].astype(jnp.float32)
    places = [y + rows, x + columns]
    return jax.vmap(lambda plane: map_coordinates(plane, places, order=1, mode="reflect"), -1, -1)(image)


def zoom(image: Image, factor: Scalar) -> Image:
    """The middle of the image enlarged `factor` times."""
    height, width = image.shape[:2]
    y, x = jnp.mgrid[:height, :width].astype(jnp.float32)
    shrink = 1 / factor - 1
    return displace(image, (y - (height - 1) / 2) * shrink, (x - (width - 1) / 2) * shrink)
