"""Resizing by OpenCV against OpenCV and numpy by hand, and the scales at which JPEG is decoded for it."""

import dataclasses
import io
import subprocess
import sys

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageOps

from mlvlab_jax.config.schema import PipelineConfig, PreprocessSpec, ValidationConfig
from mlvlab_jax.data import resize as resize_module
from mlvlab_jax.data.decode import decode_image
from mlvlab_jax.data.inspection import inspect_data
from mlvlab_jax.data.open import open_data
from mlvlab_jax.data.pack import pack
from mlvlab_jax.data.resize import choose_jpeg_size, resize_pixels
from mlvlab_jax.data.sources.image_folder import ImageFolderParams
from mlvlab_jax.errors import ConfigError
from mlvlab_jax.plugins import Spec

cv2 = pytest.importorskip("cv2")

LINEAR = PreprocessSpec(filter="opencv_linear")


def noise(height, width, channels=3):
    return np.random.default_rng(height * width).integers(0, 256, (height, width, channels), np.uint8)


def smooth(height, width):
    return cv2.GaussianBlur(noise(height, width), (0, 0), 4)


def jpeg(pixels, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95, **options)
    return file.getvalue()


@pytest.mark.parametrize("channels", [1, 3])
def test_opencv_linear_is_opencvs_own_on_the_part_that_is_kept(channels):
    image = noise(80, 101, channels)

    def by_hand(pixels, height, width):
        return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR).reshape(height, width, channels)

    def ours(resize):
        return resize_pixels(image, dataclasses.replace(LINEAR, resize=resize), size=(56, 60))

    np.testing.assert_array_equal(ours("crop"), by_hand(image[:, 8:-8], 56, 60))  # 85.7 of 101 columns, so 7.6 a side
    np.testing.assert_array_equal(ours("stretch"), by_hand(image, 56, 60))
    padded = ours("pad")  # 60 / 101 of 80 rows is 47.5
    np.testing.assert_array_equal(padded[4:52], by_hand(image, 48, 60))
    assert not padded[:4].any()
    assert not padded[52:].any()


def test_opencv_takes_means_where_the_image_is_twice_the_size_or_more():
    image = noise(100, 140)
    got = resize_pixels(image, LINEAR, size=(25, 25))
    means = image[:, 20:-20].reshape(25, 4, 25, 4, 3).mean((1, 3))
    np.testing.assert_allclose(got, means, atol=0.51)


@pytest.mark.parametrize("shape", [(31, 64), (64, 31), (47, 80), (200, 33)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_image_keeps_the_same_part(orientation, shape):
    stored, exif, file = Image.fromarray(noise(*shape)), Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    stored.save(file, "PNG", exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(file)))
    expected = resize_pixels(upright, LINEAR, size=(22, 28))
    got = decode_image(file.getvalue(), dataclasses.replace(LINEAR, size=(22, 28)))
    assert np.abs(got.astype(int) - expected.astype(int)).max() <= 1


@pytest.mark.parametrize(
    ("filter_", "enlargement", "shape", "expected"),
    [
        ("bilinear", 1.0, (375, 500), (235, 313)),
        ("bilinear", 1.25, (375, 500), (188, 250)),
        ("opencv_linear", 1.0, (375, 500), (375, 500)),
        ("opencv_linear", 1.1, (375, 500), (375, 500)),  # the half lacks a factor of 1.19
        ("opencv_linear", 1.25, (375, 500), (188, 250)),
        ("opencv_linear", 1.0, (1000, 850), (500, 425)),
        ("opencv_linear", 1.0, (4000, 3000), (500, 375)),  # an eighth is the least there is
        ("opencv_linear", 2.0, (200, 300), (200, 300)),  # lacks 1.12 as it is, 2.24 at the half
    ],
)
def test_a_jpeg_is_decoded_at_the_documented_scale(filter_, enlargement, shape, expected):
    spec = PreprocessSpec(filter=filter_, max_jpeg_enlargement=enlargement)
    height, width = choose_jpeg_size(shape, spec, size=(224, 224))
    data = jpeg(np.zeros((*shape, 3), np.uint8))
    assert simplejpeg.decode_jpeg_header(data, min_height=height, min_width=width)[:2] == expected


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("enlargement", [1.0, 1.25, 2.0])
def test_a_jpeg_is_never_enlarged_beyond_what_is_allowed(resize, enlargement):
    spec = PreprocessSpec(filter="opencv_linear", resize=resize, max_jpeg_enlargement=enlargement)
    draws = np.random.default_rng(0)
    for _ in range(300):
        shape, size = draws.integers(1, 2000, 2).tolist(), draws.integers(1, 500, 2).tolist()
        decoded = choose_jpeg_size(tuple(shape), spec, size=tuple(size))
        asked = np.array(size) / shape
        asked = {"crop": np.full(2, asked.max()), "pad": np.full(2, asked.min()), "stretch": asked}[resize]
        allowed = np.maximum(asked, 1) if (np.array(decoded) == shape).all() else np.full(2, enlargement)
        assert (asked * shape / decoded <= allowed + 1e-9).all()


def test_a_photo_is_decoded_at_half_its_size_and_enlarged():
    data = jpeg(smooth(375, 500))
    half = simplejpeg.decode_jpeg(data, min_height=188, min_width=250)
    assert half.shape == (188, 250, 3)
    expected = cv2.resize(half[:, 31:-31], (224, 224), interpolation=cv2.INTER_LINEAR)
    fast = PreprocessSpec(size=(224, 224), filter="opencv_linear", max_jpeg_enlargement=1.25)
    np.testing.assert_array_equal(decode_image(data, fast), expected)
    accurate = decode_image(data, PreprocessSpec(size=(224, 224)))
    assert np.abs(accurate.astype(int) - expected).mean() < 1


def test_a_file_is_not_enlarged_while_it_is_packed(tmp_path):
    for name in "ab":
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "1.jpg").write_bytes(jpeg(smooth(150, 200)))
    source = Spec("image_folder", ImageFolderParams(path=str(tmp_path / "photos")))
    records = []
    for enlargement in (1.0, 2.0):
        preprocess = PreprocessSpec(filter="opencv_linear", max_jpeg_enlargement=enlargement)
        folder = tmp_path / str(enlargement)
        index = pack(source, PipelineConfig(preprocess=preprocess), folder=folder, max_side=120)
        records.append((folder / index.splits["train"].shards[0].file).read_bytes())
    assert records[0] == records[1]


@pytest.fixture
def no_opencv(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    resize_module._opencv.cache_clear()
    yield
    resize_module._opencv.cache_clear()


@pytest.mark.usefixtures("no_opencv")
def test_without_opencv_data_are_refused_when_they_are_opened(tmp_path):
    for name in "ab":
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "1.jpg").write_bytes(jpeg(noise(30, 40)))
    source = Spec("image_folder", ImageFolderParams(path=str(tmp_path / "photos")))
    preprocess = PreprocessSpec(size=(8, 8), filter="opencv_linear")
    pipeline = PipelineConfig(preprocess=preprocess, max_memory_mib=0)
    for opening in (
        lambda: open_data(source, pipeline, seed=0),
        lambda: inspect_data(source, preprocess, ValidationConfig()),
        lambda: pack(source, pipeline, folder=tmp_path / "packed"),
    ):
        with pytest.raises(ConfigError, match=r'pip install "mlvlab_jax\[opencv\]"') as caught:
            opening()
        assert caught.value.path == "pipeline.preprocess.filter"
    assert not (tmp_path / "packed").exists()


_IMPORTS = """
import sys
import numpy as np
from mlvlab_jax.config.schema import PreprocessSpec
from mlvlab_jax.data.decode import fit_pixels
image = np.zeros((40, 30, 3), np.uint8)
fit_pixels(image, PreprocessSpec(size=(20, 20)))
assert "cv2" not in sys.modules
fit_pixels(image, PreprocessSpec(size=(20, 20), filter="opencv_linear"))
print(sys.modules["cv2"].getNumThreads())
"""


def test_opencv_is_imported_on_demand_and_keeps_to_one_thread():
    done = subprocess.run([sys.executable, "-c", _IMPORTS], capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 1
