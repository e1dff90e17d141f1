"""What happens to images in cameras and files."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from mlvlab_jax.data.corruptions.blur import blur, displace, scale_of
from mlvlab_jax.data.corruptions.noise import Image, Scalar

#: Quantisation of luma and chroma at quality 50 (ITU-T T.81, annex K).
_LUMA = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
_CHROMA = np.full((8, 8), 99)
_CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
_COSINES = np.cos((2 * np.arange(8)[None] + 1) * np.arange(8)[:, None] * np.pi / 16) / 2
_COSINES[0] /= np.sqrt(2)
#: RGB to luma and the two chromas, 0 to 255 around 0 and back (JFIF).
_TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])


def brightness(image: Image, key: Key[Array, ""], strength: Scalar) -> Image:
    """The value of HSV plus `strength`; hue and saturation stay."""
    value = image.max(-1, keepdims=True)
    brighter = jnp.clip(value + strength, 0, 1)
    return jnp.where(value > 0, image * brighter / jnp.maximum(value, 1e-6), brighter)


def contrast(image: Image, key: Key[Array, ""], strength: Scalar) -> Image:
    """Distance from the mean of each channel times `strength`."""
    mean = image.mean((0, 1), keepdims=True)
    return (image - mean) * strength + mean


def elastic_transform(image: Image, key: Key[Array, ""], strength: Float[Array, "3"]) -> Image:
    """Corners moved by up to `strength[2]` pixels, and all places by smooth noise: `strength[0]` times, sigma [1]."""
    scale = scale_of(image)
    alpha, sigma, corner = strength * scale
    height, width = image.shape[:2]
    affine, field = jax.random.split(key)
    by = jax.random.uniform(affine, (2, 3), minval=-1) * corner
    y, x = jnp.mgrid[:height, :width].astype(jnp.float32)
    v, u = (y - (height - 1) / 2) / (height / 3), (x - (width - 1) / 2) / (width / 3)
    linear = by[:, 0, None, None] + by[:, 1, None, None] * v[None] / 2 + by[:, 2, None, None] * u[None] / 2
    noise = jax.random.uniform(field, (height, width, 2), minval=-1)
    # Blur that is finer than a pixel would leave more of the noise than the same blur of a larger image does.
    fine = jnp.maximum(sigma, 1.0)
    smooth = jnp.moveaxis(blur(noise, fine), -1, 0) * alpha * fine / jnp.maximum(strength[1], 1.0)
    return displace(image, linear[0] + smooth[0], linear[1] + smooth[1])


def pixelate(image: Image, key: Key[Array, ""], strength: Scalar) -> Image:
    """Made smaller, to `strength` of its size, by the mean of boxes, and larger again by the nearest."""

    def weights(size: int) -> Float[Array, "n n"]:
        small = jnp.floor(size * strength + 1e-4)
        out, tap = jnp.arange(size, dtype=jnp.float32)[:, None], jnp.arange(size, dtype=jnp.float32)[None]
        box = jnp.floor((out + 0.5) * small / size)
        first, last = box * size / small, (box + 1) * size / small
        overlap = jnp.clip(jnp.minimum(tap + 1, last) - jnp.maximum(tap, first), 0, 1)
        return overlap / overlap.sum(-1, keepdims=True)

    return jnp.einsum("uh,hwc,vw->uvc", weights(image.shape[0]), image, weights(image.shape[1]))


def jpeg_compression(image: Image, key: Key[Array, ""], strength: Scalar) -> Image:
    """Coefficients of blocks of 8 x 8 rounded as at quality `strength` (below 50) of libjpeg; chroma at half size."""
    height, width, channels = image.shape
    scale = jnp.floor(5000 / strength)
    padded = jnp.pad(image * 255, ((0, -height % 16), (0, -width % 16), (0, 0)), mode="edge")
    if channels == 1:
        return (_quantise(padded[..., 0] - 128, _LUMA, scale)[:height, :width, None] + 128) / 255
    luma, blue, red = jnp.moveaxis(padded @ jnp.asarray(_TO_YCC.T, jnp.float32), -1, 0)
    planes = [_quantise(luma - 128, _LUMA, scale) + 128]
    for chroma in (blue, red):
        half = chroma.reshape(chroma.shape[0] // 2, 2, -1, 2).mean((1, 3))
        planes.append(jax.image.resize(_quantise(half, _CHROMA, scale), chroma.shape, "linear"))
    back = jnp.asarray(np.linalg.inv(_TO_YCC).T, jnp.float32)
    return (jnp.stack(planes, -1) @ back)[:height, :width] / 255


def _quantise(plane: Float[Array, "h w"], table: np.ndarray, scale: Scalar) -> Float[Array, "h w"]:
    rows, columns = plane.shape[0] // 8 + (plane.shape[0] % 8 > 0), plane.shape[1] // 8 + (plane.shape[1] % 8 > 0)
    whole = jnp.pad(plane, ((0, rows * 8 - plane.shape[0]), (0, columns * 8 - plane.shape[1])), mode="edge")
    blocks = whole.reshape(rows, 8, columns, 8).swapaxes(1, 2)
    steps = jnp.clip(jnp.floor((table * scale + 50) / 100), 1, 255)[None, None]
    cosines = jnp.asarray(_COSINES, jnp.float32)
    found = jnp.einsum("ij,rcjk,lk->rcil", cosines, blocks, cosines)
    kept = jnp.round(found / steps) * steps
    pixels = jnp.einsum("ji,rcjk,kl->rcil", cosines, kept, cosines)
    return pixels.swapaxes(1, 2).reshape(rows * 8, columns * 8)[: plane.shape[0], : plane.shape[1]]
