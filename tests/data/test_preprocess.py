"""The one preprocessing against Pillow used by hand, and its documented rules."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageOps

from mlvlab_jax.config.schema import PipelineConfig, PreprocessSpec
from mlvlab_jax.data.augment import normalize
from mlvlab_jax.data.decode import decode_image, fit_pixels, read_header

SIZES = [(40, 30), (30, 40), (64, 64), (17, 91), (200, 150)]
FILTERS = {"box": Image.Resampling.BOX, "bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def picture(width, height, mode="RGB"):
    """Smooth, so that a pixel too far to one side shows, and without symmetry."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [(x * 255 / width), (y * 255 / height), ((x + 2 * y) * 85 / max(width, height))]
    image = Image.fromarray(np.stack(planes, -1).clip(0, 255).astype(np.uint8))
    return image.convert(mode)


def encode(image, kind="PNG", **options):
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def difference(a, b):
    return int(np.abs(a.astype(int) - np.asarray(b).reshape(a.shape).astype(int)).max())


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_before_the_crop(orientation, size):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(picture(*size), exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(decode_image(data, PreprocessSpec()), np.asarray(upright))
    expected = ImageOps.fit(upright, (24, 16), Image.Resampling.BILINEAR)
    assert difference(decode_image(data, PreprocessSpec(size=(16, 24))), expected) <= 1


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
def test_formats_are_told_by_their_first_bytes(kind):
    image = picture(40, 30)
    pixels = decode_image(encode(image, kind), PreprocessSpec())
    assert read_header(encode(image, kind), PreprocessSpec()) == (kind, 40, 30, 1)
    loss = {"PNG": 0, "BMP": 0, "JPEG": 12, "WEBP": 24, "GIF": 40}[kind]
    assert difference(pixels, image) <= loss


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("name", FILTERS)
def test_resizing_is_pillows(resize, name):
    image = picture(50, 30)
    got = decode_image(encode(image), PreprocessSpec(size=(20, 20), resize=resize, filter=name))
    if resize == "crop":
        expected = ImageOps.fit(image, (20, 20), FILTERS[name])
    elif resize == "pad":
        expected = ImageOps.pad(image, (20, 20), FILTERS[name])
    else:
        expected = image.resize((20, 20), FILTERS[name])
    assert difference(got, expected) <= 1


@pytest.mark.parametrize("size", [(37, 50), (75, 100), (188, 250), (300, 400), (700, 900)])
@pytest.mark.parametrize(
    "choice", [{}, {"max_jpeg_enlargement": 1.5}, {"filter": "opencv_linear", "max_jpeg_enlargement": 1.5}], ids=str
)
def test_scaled_jpeg_decoding_stays_near_the_full_decoding(size, choice):
    if "filter" in choice:
        pytest.importorskip("cv2")
    data = encode(picture(500, 375), "JPEG", quality=95)
    got = decode_image(data, PreprocessSpec(size=size, **choice))
    full = fit_pixels(decode_image(data, PreprocessSpec()), PreprocessSpec(size=size))
    assert np.abs(got.astype(int) - full.astype(int)).mean() < 1.5
    assert difference(got, full) <= 16


def test_modes_become_rgb_by_the_documented_rules():
    spec = PreprocessSpec()
    half = Image.new("RGBA", (4, 4), (200, 100, 0, 128))
    assert difference(decode_image(encode(half), spec), np.full((4, 4, 3), (227, 177, 127))) <= 1  # over white
    wide = Image.fromarray(np.full((4, 4), 40000, np.uint16))
    assert (decode_image(encode(wide), spec) == round(40000 * 255 / 65535)).all()
    palette = picture(16, 16).quantize(8)
    np.testing.assert_array_equal(decode_image(encode(palette), spec), np.asarray(palette.convert("RGB")))
    bilevel = Image.new("1", (4, 4), 1)
    assert (decode_image(encode(bilevel), spec) == 255).all()
    inks = picture(16, 16, "CMYK")
    assert difference(decode_image(encode(inks, "JPEG", quality=100), spec), inks.convert("RGB")) <= 12


def test_one_channel_is_luma_from_any_file():
    image = picture(32, 32)
    spec = PreprocessSpec(channels=1)
    for data, most in ((encode(image), 0), (encode(image, "JPEG", quality=100), 3), (encode(image.convert("L")), 0)):
        got = decode_image(data, spec)
        assert got.shape == (32, 32, 1)
        assert difference(got, image.convert("L")) <= most
    grey = decode_image(encode(image.convert("L"), "JPEG"), PreprocessSpec())
    assert grey.shape == (32, 32, 3)
    assert (grey[..., :1] == grey).all()


def test_normalised_pixels_are_the_same_compiled_and_by_numpy():
    data = encode(picture(60, 45), "JPEG")
    pixels = decode_image(data, PreprocessSpec(size=(32, 32)))[None]
    config = PipelineConfig(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    expected = (pixels / 255 - np.array(config.mean)) / np.array(config.std)
    compiled = jax.jit(lambda image: normalize(image, config))(jnp.asarray(pixels))
    np.testing.assert_allclose(compiled, expected, atol=1e-6)
