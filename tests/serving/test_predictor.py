"""Answers are those of the package, whatever they are computed with."""

import asyncio
import io
import shutil
import types

import jax
import jax.monitoring
import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax

from mlvlab_jax.config.serving import BatchingConfig
from mlvlab_jax.data.decode import BadImageError
from mlvlab_jax.errors import ConfigError, PackageError
from mlvlab_jax.package.load import load_package
from mlvlab_jax.serving.batcher import Batcher
from mlvlab_jax.serving.errors import InputError, PredictionError
from mlvlab_jax.serving.predictor import Outputs, Predictor, make_buckets, plan_batches
from tests.serving.test_batcher import RecordingMetrics


def draw_images(num, *, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num, 8, 8, 3), dtype=np.uint8)


def check_equal(found, expected, *, most=1e-5):
    for name, one, other in zip(Outputs._fields, found, expected, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, rtol=0, atol=most, err_msg=name)


@pytest.fixture
def compiled():
    """What jax tells of tracing, lowering and compiling."""
    events = []

    def note(name, seconds, **facts):
        if name.startswith("/jax/core/compile/"):
            events.append(name)

    jax.monitoring.register_event_duration_secs_listener(note)
    yield events
    jax.monitoring.unregister_event_duration_listener(note)


def test_there_is_a_program_for_each_power_of_two_and_for_the_largest_batch():
    assert make_buckets(1) == [1]
    assert make_buckets(2) == [1, 2]
    assert make_buckets(6) == [1, 2, 4, 6]
    assert make_buckets(32) == [1, 2, 4, 8, 16, 32]


def follow(plans, num):
    """Programs that are run for `num` images."""
    return [] if num <= 0 else [plans[num], *follow(plans, num - plans[num])]


def test_a_batch_is_cut_up_where_time_grows_with_the_images():
    plans = plan_batches({size: 10 + size * 100 for size in (1, 2, 4, 6)})
    assert [sorted(follow(plans, num)) for num in range(7)] == [[], [1], [2], [1, 2], [4], [1, 4], [6]]


def test_a_batch_is_not_cut_up_for_a_few_percent():
    assert plan_batches({1: 100, 2: 200, 4: 430})[4] == 4
    assert plan_batches({1: 100, 2: 200, 4: 460})[4] < 4


def test_a_batch_is_filled_up_where_time_hardly_grows_with_the_images():
    plans = plan_batches({size: 100 + size for size in (1, 2, 4, 8)})
    assert plans == [0, 1, 2, 4, 4, 8, 8, 8, 8]


@pytest.mark.parametrize("plans", [[0, 1, 2, 4, 4, 6, 6], [0, 1, 1, 2, 2, 1, 2]], ids=["filled up", "cut up"])
@pytest.mark.parametrize("num", [1, 2, 3, 5, 6, 7, 17])
def test_the_answers_are_those_of_the_package(num, plans, package, predictor, monkeypatch):
    monkeypatch.setattr(predictor, "_plans", plans)
    images = draw_images(num)
    logits, embedding = package.predict(images)
    expected = Outputs(logits, softmax(logits / 2.5, axis=1), embedding)
    check_equal(predictor.predict(images), expected)
    check_equal(predictor(images), expected)


def test_nothing_is_compiled_after_the_start(made, compiled):
    predictor = Predictor(load_package(made), max_batch=6)
    assert compiled.count("/jax/core/compile/backend_compile_duration") >= 4
    compiled.clear()
    for num in range(1, 15):
        predictor.predict(draw_images(num))
    assert compiled == []


async def ask_all(predictor, images, order, config):
    """Answers to one request of several images for each entry of `order`, many at a time."""
    batcher = Batcher(predictor.predict, config, metrics=RecordingMetrics())
    loop = asyncio.get_running_loop()

    async def client(requests):
        return [await batcher.submit(images[ids], deadline=loop.time() + 60) for ids in requests]

    answers = await asyncio.gather(*(client(order[at::16]) for at in range(16)))
    await batcher.close(60)
    return [(ids, outputs) for at in range(16) for ids, outputs in zip(order[at::16], answers[at], strict=True)]


@pytest.mark.parametrize("num_requests", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_no_answer_depends_on_its_neighbours_or_goes_to_another(num_requests, predictor):
    images = draw_images(100, seed=1)
    singly = [predictor.predict(images[at : at + 1]) for at in range(100)]
    alone = Outputs(*map(np.concatenate, zip(*singly, strict=True)))
    apart = np.abs(alone.logits[:, None] - alone.logits[None]).max(axis=-1)
    assert apart[~np.eye(100, dtype=bool)].min() > 1e-4  # else a swap could not be seen
    draw = np.random.default_rng(2)
    order = [draw.integers(0, 100, draw.integers(1, 5)) for _ in range(num_requests)]
    found = asyncio.run(ask_all(predictor, images, order, BatchingConfig(max_size=6)))
    assert len(found) == num_requests
    for ids, outputs in found:
        check_equal(outputs, Outputs(*(array[ids] for array in alone)))


LOGIT_OF = {1: np.nan, 2: np.inf, 3: -np.inf}


class BrokenNetwork:
    """Stands in for a package; a logit of an image is what is written in its first pixel."""

    name = "broken"
    class_names = ("a", "b")
    image = (2, 2, 1)
    temperature = 1.0
    manifest = types.SimpleNamespace(sha256="0123456789abcdef" * 4)

    def compile(self, batch_size):
        def program(images):
            assert len(images) == batch_size
            logits = np.array([[0.0, LOGIT_OF.get(int(one.flat[0]), 1.0)] for one in images], np.float32)
            return logits, logits

        return program


def test_a_logit_that_is_not_finite_marks_the_answer_of_its_own_image():
    predictor = Predictor(BrokenNetwork(), max_batch=4)
    images = np.broadcast_to(np.array([0, 1, 0, 2, 3, 0], np.uint8)[:, None, None, None], (6, 2, 2, 1))
    outputs = predictor.predict(images)
    assert np.isnan(outputs.probabilities).all(axis=1).tolist() == [False, True, False, True, True, False]
    expected = softmax(np.float32([0, 1]))
    np.testing.assert_allclose(outputs.probabilities[[0, 2, 5]], np.tile(expected, (3, 1)), rtol=1e-6)

    async def scenario():
        batcher, loop = Batcher(predictor.predict, BatchingConfig(), metrics=RecordingMetrics()), asyncio
        requests = [
            batcher.submit(part, deadline=loop.get_running_loop().time() + 60) for part in (images[:1], images[2:])
        ]
        found = await asyncio.gather(*requests, return_exceptions=True)
        await batcher.close(60)
        return found

    right, guilty = asyncio.run(scenario())
    np.testing.assert_allclose(right.probabilities[0], expected, rtol=1e-6)
    assert isinstance(guilty, PredictionError)
    assert guilty.index == 1


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((0, 8, 8, 3), np.uint8),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((1, 8, 8, 1), np.uint8),
        np.zeros((1, 9, 8, 3), np.uint8),
        np.full((1, 8, 8, 3), np.nan, np.float32),
        np.zeros((1, 8, 8, 3), np.int64),
        np.array("image"),
    ],
    ids=["none", "dims", "channels", "height", "nan", "int64", "text"],
)
def test_what_the_network_does_not_take_is_refused(images, predictor):
    with pytest.raises(InputError, match=r"expected uint8 \(b, 8, 8, 3\), b >= 1"):
        predictor.predict(images)


def test_an_opened_package_says_what_it_is(made, package):
    predictor = Predictor.open(made, max_batch=2, compile_cache=False)
    assert predictor.name == "tiny"
    assert predictor.version == package.manifest.sha256[:12]
    assert predictor.class_names == tuple("0123456789")
    assert predictor.image == (8, 8, 3)
    named = Predictor(package, max_batch=1, name="digits", version="1.2.0")
    assert (named.name, named.version) == ("digits", "1.2.0")


def test_a_package_that_was_tampered_with_is_not_opened(made, tmp_path):
    folder = shutil.copytree(made, tmp_path / "package")
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(PackageError, match="was altered"):
        Predictor.open(folder, compile_cache=False)


def test_programs_are_kept_only_where_asked(made, tmp_path, monkeypatch):
    settings = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
    before = {name: getattr(jax.config, name) for name in settings}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    try:
        Predictor.open(made, max_batch=1, compile_cache=False)
        assert jax.config.jax_compilation_cache_dir == before["jax_compilation_cache_dir"]
        Predictor.open(made, max_batch=1)
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mlvlab_jax" / "xla")
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def test_a_batch_of_none_is_refused(package):
    with pytest.raises(ConfigError, match="max_batch is 0; expected 1 or more"):
        Predictor(package, max_batch=0)


def test_a_file_becomes_the_pixels_of_the_package(package, predictor):
    file = io.BytesIO()
    Image.fromarray(draw_images(1)[0].repeat(3, axis=0)).save(file, "png")
    header, pixels = predictor.decode(file.getvalue())
    assert (header.format, header.height, header.width) == ("PNG", 24, 8)
    np.testing.assert_array_equal(pixels, package.preprocess_bytes(file.getvalue()))
    with pytest.raises(BadImageError):
        predictor.decode(b"no image")


def test_the_most_probable_classes_come_first(predictor):
    probabilities = np.full(10, 0.05, np.float32)
    probabilities[[3, 7]] = 0.5, 0.1
    assert [name for name, _ in predictor.top(probabilities, 4)] == ["3", "7", "0", "1"]
    assert predictor.top(probabilities, 1) == [("3", 0.5)]
    assert len(predictor.top(probabilities, 100)) == 10
