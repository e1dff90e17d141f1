import subprocess
import sys

import numpy as np
import pytest

from mlvlab_jax.config.schema import PreprocessSpec
from mlvlab_jax.data.decode import BadImageError, decode_image, read_header
from mlvlab_jax.data.records import DecodedSource
from mlvlab_jax.data.scan import scan_split
from mlvlab_jax.data.sources.image_folder import ImageFolderParams, open_image_folder
from tests.data.hostile import make_bad, make_good, red, turned, write_corpus

# Pillow says so of EXIF it cannot read; the pixels are none the worse.
pytestmark = pytest.mark.filterwarnings("ignore:Corrupt EXIF data")

GOOD, BAD = make_good(), make_bad()
SPEC = PreprocessSpec(channels=3)


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


@pytest.mark.parametrize("name", BAD)
def test_a_broken_file_is_refused_with_the_documented_reason(name):
    data, reason = BAD[name]
    for spec in (SPEC, PreprocessSpec(channels=1, size=(16, 16)), PreprocessSpec(channels=3, size=(500, 500))):
        with pytest.raises(BadImageError) as caught:
            decode_image(data, spec)
        assert caught.value.reason == reason
        assert str(caught.value)


def test_every_orientation_gives_the_same_pixels():
    expected = np.asarray(red())
    for orientation in range(1, 9):
        np.testing.assert_array_equal(decode_image(turned(orientation, "PNG"), SPEC), expected)


def test_loader_and_validator_agree_with_the_decoder_on_every_file(tmp_path):
    outcomes = write_corpus(tmp_path / "set" / "hostile")
    (tmp_path / "set" / "other").mkdir()
    records = open_image_folder(ImageFolderParams(path=str(tmp_path / "set"))).splits["train"]
    names = [records.name(i).rpartition("/")[2] for i in range(len(records))]
    assert sorted(names) == sorted(outcomes)
    spec = PreprocessSpec(size=(16, 16), channels=3)
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
