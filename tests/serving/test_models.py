import asyncio
import dataclasses
import gc
import logging
import weakref

import numpy as np
import pytest

from mlvlab_jax.config.serving import ServingConfig
from mlvlab_jax.errors import PackageError, RegistryError
from mlvlab_jax.serving.metrics import ServingMetrics
from mlvlab_jax.serving.models import NotReadyError, UnknownModelError
from tests.serving.running import SHA, FakePredictor, FakeSource, broken_error, make_models

CONFIG = ServingConfig(follow_s=0.02, grace_s=2.0)
IMAGE = np.zeros((1, 2, 2, 1), np.uint8)


@pytest.fixture(scope="module", autouse=True)
def _quick_collections():
    """Each version that is left is followed by a collection, which need not look at all that pytest imported."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def value(metrics, name, **labels):
    return metrics.registry.get_sample_value(name, labels)


async def until(condition, seconds=5):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


def followed(folder, story, **options):
    """Runs `story(models, source, metrics)` on started models that follow a fake source."""
    source, metrics = FakeSource(folder), ServingMetrics()

    async def main():
        models = make_models(source, CONFIG, metrics, **options)
        await models.start()
        try:
            await story(models, source, metrics)
        finally:
            await models.close(1.0)

    asyncio.run(main())


async def answer(served):
    outputs = await served.batcher.submit(IMAGE, deadline=asyncio.get_running_loop().time() + 2)
    return int(outputs.probabilities[0].argmax())


def test_no_version_answers_before_the_first_is_loaded(tmp_path):
    async def main():
        metrics = ServingMetrics()
        models = make_models(FakeSource(tmp_path), CONFIG, metrics)
        assert not models.ready
        with pytest.raises(NotReadyError):
            models.current()
        await models.start()
        assert models.ready
        assert value(metrics, "mlvlab_ready") == 1
        assert value(metrics, "mlvlab_model_info", model="digits", version="1.0.0", package=SHA["1.0.0"]) == 1
        await models.close(1.0)
        assert value(metrics, "mlvlab_ready") == 0

    asyncio.run(main())


def test_a_first_version_that_is_broken_is_an_error(tmp_path):
    source = FakeSource(tmp_path)
    source.broken["1.0.0"] = broken_error()

    async def main():
        await make_models(source, CONFIG, ServingMetrics()).start()

    with pytest.raises(PackageError, match="was altered"):
        asyncio.run(main())


def test_find_knows_the_served_name_and_version_and_no_other(tmp_path):
    async def story(models, source, metrics):
        assert models.find("digits") is models.find("digits", "1.0.0") is models.current()
        for name, version in (("other", None), ("digits", "2.0.0"), ("", None), ("digits", ""), ("../digits", "1.0.0")):
            with pytest.raises(UnknownModelError):
                models.find(name, version)

    followed(tmp_path, story)


def test_the_alias_is_followed(tmp_path):
    async def story(models, source, metrics):
        assert await answer(models.current()) == 1
        source.change("2.0.0")
        await until(lambda: models.current().predictor.version == "2.0.0")
        assert await answer(models.current()) == 2
        assert value(metrics, "mlvlab_reloads_total", result="ok") == 1
        assert value(metrics, "mlvlab_model_info", model="digits", version="2.0.0", package=SHA["2.0.0"]) == 1
        assert value(metrics, "mlvlab_model_info", model="digits", version="1.0.0", package=SHA["1.0.0"]) is None
        source.change("1.0.0")
        await until(lambda: models.current().predictor.version == "1.0.0")
        assert value(metrics, "mlvlab_reloads_total", result="ok") == 2

    followed(tmp_path, story)


def test_each_version_is_told_of_as_it_begins_to_answer(tmp_path):
    told = []

    async def story(models, source, metrics):
        source.change("2.0.0")
        await until(lambda: len(told) == 2)

    followed(tmp_path, story, on_change=lambda served: told.append(served.predictor.version))
    assert told == ["1.0.0", "2.0.0"]


def test_an_observer_that_fails_is_an_error_at_the_start_and_none_later(tmp_path, caplog):
    def tell(served):
        if served.predictor.version == "2.0.0":
            raise ValueError("observer")

    async def story(models, source, metrics):
        for version in ("2.0.0", "3.0.0"):
            source.change(version)
            await until(lambda version=version: models.current().predictor.version == version)

    followed(tmp_path, story, on_change=tell)
    assert "an observer of versions failed" in caplog.text

    async def start():
        await make_models(FakeSource(tmp_path, "2.0.0"), CONFIG, ServingMetrics(), on_change=tell).start()

    with pytest.raises(ValueError, match="observer"):
        asyncio.run(start())


def test_a_version_is_kept_while_it_is_leased_and_freed_afterwards(tmp_path):
    async def story(models, source, metrics):
        with models.current().lease() as served:
            freed = weakref.ref(served.predictor)
            source.change("2.0.0")
            await until(lambda: models.current() is not served)
            await asyncio.sleep(0.05)
            assert await answer(served) == 1  # its batcher still runs
        thread = served.batcher._thread
        del served
        await until(lambda: freed() is None)
        await until(lambda: not thread.is_alive())

    followed(tmp_path, story)
    gc.collect()


def test_changes_leave_one_version(tmp_path):
    async def story(models, source, metrics):
        alive = weakref.WeakSet()
        for version in ("2.0.0", "1.0.0") * 3:
            source.change(version)
            await until(lambda version=version: models.current().predictor.version == version)
            alive.add(models.current().predictor)
        await until(lambda: len(alive) == 1)

    followed(tmp_path, story)


@pytest.mark.parametrize("error", [broken_error(), RuntimeError("0xdead"), OSError("gone"), MemoryError()])
def test_a_broken_version_is_refused_once_and_the_old_one_goes_on(tmp_path, error, caplog):
    async def story(models, source, metrics):
        source.broken["2.0.0"] = error
        source.change("2.0.0")
        await until(lambda: value(metrics, "mlvlab_reload_failing") == 1)
        await asyncio.sleep(0.2)
        assert source.num_opened == 2
        assert value(metrics, "mlvlab_reloads_total", result="refused") == 1
        assert await answer(models.current()) == 1
        assert models.ready

    with caplog.at_level(logging.INFO):
        followed(tmp_path, story)
    assert caplog.text.count("reload refused: digits 2.0.0: ") == 1
    assert "1.0.0 keeps serving" in caplog.text


def test_a_refused_version_is_tried_again_when_its_files_change(tmp_path):
    async def story(models, source, metrics):
        source.broken["2.0.0"] = broken_error()
        source.change("2.0.0")
        await until(lambda: value(metrics, "mlvlab_reload_failing") == 1)
        source.broken.clear()
        await asyncio.sleep(0.1)
        assert models.current().predictor.version == "1.0.0"
        (tmp_path / "model.safetensors").write_bytes(b"mended")
        await until(lambda: models.current().predictor.version == "2.0.0")
        assert value(metrics, "mlvlab_reload_failing") == 0

    followed(tmp_path, story)


def test_a_refused_version_is_tried_again_when_a_person_says_so(tmp_path):
    async def story(models, source, metrics):
        source.broken["2.0.0"] = broken_error()
        source.change("2.0.0")
        await until(lambda: value(metrics, "mlvlab_reload_failing") == 1)
        source.broken.clear()
        models.look()
        await until(lambda: models.current().predictor.version == "2.0.0")

    followed(tmp_path, story)


def test_an_alias_that_goes_back_ends_the_failure(tmp_path):
    async def story(models, source, metrics):
        source.broken["2.0.0"] = broken_error()
        source.change("2.0.0")
        await until(lambda: value(metrics, "mlvlab_reload_failing") == 1)
        source.change("1.0.0")
        await until(lambda: value(metrics, "mlvlab_reload_failing") == 0)
        source.change("3.0.0")
        await until(lambda: models.current().predictor.version == "3.0.0")

    followed(tmp_path, story)


def other_digest(path, found):
    return FakePredictor(found._replace(sha256="f" * 64) if found.version == "2.0.0" else found)


def other_size(path, found):
    return FakePredictor(found, image=(4, 4, 1) if found.version == "2.0.0" else (2, 2, 1))


@pytest.mark.parametrize(
    ("open_version", "reason"), [(other_digest, "the package has digest f"), (other_size, "images")]
)
def test_another_package_or_image_size_is_refused(tmp_path, open_version, reason, caplog):
    async def story(models, source, metrics):
        source.change("2.0.0")
        await until(lambda: value(metrics, "mlvlab_reload_failing") == 1)
        assert models.current().predictor.version == "1.0.0"

    followed(tmp_path, story, open_version=open_version)
    assert reason in caplog.text


def test_other_classes_are_taken_and_logged(tmp_path, caplog):
    def open_version(path, found):
        return FakePredictor(found, class_names=("a", "b", found.version))

    async def story(models, source, metrics):
        source.change("2.0.0")
        await until(lambda: models.current().predictor.version == "2.0.0")

    followed(tmp_path, story, open_version=open_version)
    assert "digits 2.0.0 has other classes than 1.0.0" in caplog.text


@pytest.mark.parametrize("error", [RegistryError("no such folder"), OSError("down"), RuntimeError("odd")])
def test_a_registry_that_is_away_changes_nothing_and_is_told_once(tmp_path, error, caplog):
    async def story(models, source, metrics):
        source.error = error
        await asyncio.sleep(0.2)
        assert await answer(models.current()) == 1
        assert value(metrics, "mlvlab_reload_failing") == 0
        source.error = None
        source.change("2.0.0")
        await until(lambda: models.current().predictor.version == "2.0.0")

    followed(tmp_path, story)
    assert caplog.text.count("registry away: ") == 1


def test_a_source_that_does_not_change_by_itself_is_looked_at_when_told(tmp_path):
    async def story(models, source, metrics):
        source.change("2.0.0")
        await asyncio.sleep(0.1)
        assert models.current().predictor.version == "1.0.0"
        models.look()
        await until(lambda: models.current().predictor.version == "2.0.0")

    class Folder(FakeSource):
        follows = False

    source, metrics = Folder(tmp_path), ServingMetrics()

    async def main():
        models = make_models(source, CONFIG, metrics)
        await models.start()
        await story(models, source, metrics)
        source.error = PackageError("manifest.json: was altered")
        models.look()
        await until(lambda: value(metrics, "mlvlab_reload_failing") == 1)
        await models.close(1.0)

    asyncio.run(main())


def test_draining_is_not_ready_and_answers_what_was_accepted(tmp_path):
    async def story(models, source, metrics):
        with models.current().lease() as served:
            models.drain()
            assert (models.ready, models.draining) == (False, True)
            assert value(metrics, "mlvlab_ready") == 0
            assert await answer(served) == 1

    followed(tmp_path, story)


def test_a_version_that_is_ready_while_draining_does_not_make_the_server_ready(tmp_path):
    async def main():
        metrics = ServingMetrics()
        models = make_models(FakeSource(tmp_path), dataclasses.replace(CONFIG), metrics)
        models.drain()
        await models.start()
        assert not models.ready
        assert value(metrics, "mlvlab_ready") == 0
        await models.close(1.0)

    asyncio.run(main())
