import dataclasses
import importlib.util
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from mlvlab_jax.config.schema import PreprocessSpec
from mlvlab_jax.data.decode import BadImageError, decode_image, read_header
from mlvlab_jax.data.records import DecodedSource
from mlvlab_jax.data.scan import scan_split
from mlvlab_jax.data.sources.image_folder import ImageFolderParams, open_image_folder
from tests.data.hostile import encode, make_bad, make_good, red, turned, write_corpus

# Pillow says so of EXIF it cannot read; the pixels are none the worse.
pytestmark = pytest.mark.filterwarnings("ignore:Corrupt EXIF data")

GOOD, BAD = make_good(), make_bad()
SPEC = PreprocessSpec(channels=3)
FAST = PreprocessSpec(channels=3, filter="opencv_linear", max_jpeg_enlargement=1.25)
NO_OPENCV = pytest.mark.skipif(importlib.util.find_spec("cv2") is None, reason="OpenCV is not installed")
ALL_SPECS = pytest.mark.parametrize(
    "spec", [pytest.param(SPEC, id="default"), pytest.param(FAST, id="fast", marks=NO_OPENCV)]
)


def with_app1(data, *, before=b"", body):
    """A JPEG with bytes and a segment APP1 after its start."""
    return data[:2] + before + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]


@pytest.mark.parametrize("name", GOOD)
def test_a_strange_file_is_decoded_as_documented(name):
    data, seen = GOOD[name]
    pixels = decode_image(data, SPEC)
    assert (pixels.dtype, pixels.shape) == (np.uint8, (seen.height, seen.width, 3))
    np.testing.assert_allclose(pixels[seen.height // 4, seen.width // 4].astype(int), seen.colour, atol=3)
    header = read_header(data, SPEC)
    shown = (header.width, header.height) if header.orientation >= 5 else (header.height, header.width)
    assert shown == pixels.shape[:2]
    grey = decode_image(data, PreprocessSpec(channels=1))
    luma = np.dot(seen.colour, (0.299, 0.587, 0.114))
    np.testing.assert_allclose(grey[seen.height // 4, seen.width // 4], luma, atol=3)


@ALL_SPECS
@pytest.mark.parametrize("name", GOOD)
def test_a_strange_file_is_seen_the_same_at_another_size(name, spec):
    data, seen = GOOD[name]
    for channels, expected in ((3, seen.colour), (1, np.dot(seen.colour, (0.299, 0.587, 0.114)))):
        pixels = decode_image(data, dataclasses.replace(spec, size=(9, 13), channels=channels))
        assert (pixels.dtype, pixels.shape) == (np.uint8, (9, 13, channels))
        np.testing.assert_allclose(pixels[2, 3].astype(int), expected, atol=8)


@ALL_SPECS
@pytest.mark.parametrize("name", BAD)
def test_a_broken_file_is_refused_with_the_documented_reason(name, spec):
    data, reason = BAD[name]
    for channels, size in ((3, None), (1, (16, 16)), (3, (29, 29)), (3, (500, 500))):
        with pytest.raises(BadImageError) as caught:
            decode_image(data, dataclasses.replace(spec, channels=channels, size=size))
        assert caught.value.reason == reason
        assert str(caught.value)


def test_every_orientation_gives_the_same_pixels():
    expected = np.asarray(red())
    for orientation in range(1, 9):
        np.testing.assert_array_equal(decode_image(turned(orientation, "PNG"), SPEC), expected)


@pytest.mark.parametrize(
    "before", [b"", b"\xff\xfe\xff\xff" + bytes(65533), b"\xff\xff"], ids=["first", "after a comment", "after filling"]
)
@pytest.mark.parametrize("kind", ["EXIF", "XMP"])
def test_the_orientation_of_a_jpeg_is_found_wherever_it_stands(kind, before):
    exif = Image.Exif()
    exif[0x0112] = 6
    body = {"EXIF": exif.tobytes(), "XMP": b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6"/>'}[kind]
    plain = encode(red(), "JPEG")
    assert decode_image(plain, SPEC).shape == (16, 24, 3)
    assert decode_image(with_app1(plain, before=before, body=body), SPEC).shape == (24, 16, 3)


@ALL_SPECS
def test_loader_and_validator_agree_with_the_decoder_on_every_file(tmp_path, spec):
    outcomes = write_corpus(tmp_path / "set" / "hostile")
    (tmp_path / "set" / "other").mkdir()
    records = open_image_folder(ImageFolderParams(path=str(tmp_path / "set"))).splits["train"]
    names = [records.name(i).rpartition("/")[2] for i in range(len(records))]
    assert sorted(names) == sorted(outcomes)
    spec = dataclasses.replace(spec, size=(16, 16))
    loaded = DecodedSource(records, spec).fetch(np.arange(len(records)))
    scan = scan_split("train", records, spec)
    assert scan.bad == dict(loaded.bad)
    for index, name in enumerate(names):
        outcome = outcomes[name]
        if isinstance(outcome, str):
            assert loaded.bad[index].split(":")[0] == outcome
            assert not loaded.image[index].any()
        else:
            data = (tmp_path / "set" / "hostile" / name).read_bytes()
            np.testing.assert_array_equal(loaded.image[index], decode_image(data, spec))
            assert (scan.height[index], scan.width[index]) == outcome[:2]
    renamed = {names[i] for i in scan.renamed}
    assert renamed == {"really_a_png.jpg", "really_a_jpeg.webp"}


_MEASURE = """
import resource
from mlvlab_jax.config.schema import PreprocessSpec
from mlvlab_jax.data.decode import BadImageError, decode_image
from tests.data.hostile import make_bombs
bombs = make_bombs()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for data, reason in bombs.values():
    try:
        decode_image(data, PreprocessSpec(channels=3))
    except BadImageError as error:
        assert error.reason == reason
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_bombs_are_refused_before_they_take_memory():
    done = subprocess.run([sys.executable, "-c", _MEASURE], capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 50 * 1024
