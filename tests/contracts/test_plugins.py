"""Every entry of every plugin table: its example is valid, documented and survives YAML."""

import dataclasses
import pickle

import numpy as np
import pytest
from pydantic import TypeAdapter

from mlvlab_jax.config.fields import params_from
from mlvlab_jax.config.schema import PipelineConfig
from mlvlab_jax.data.open import open_data
from mlvlab_jax.errors import ConfigError
from mlvlab_jax.plugins import SOURCES, TABLES, PluginTable, Spec, did_you_mean
from mlvlab_jax.types import RunInfo

ENTRIES = [(table, name) for table in TABLES for name in table.names()]


@pytest.mark.parametrize(("table", "name"), ENTRIES, ids=lambda value: getattr(value, "kind", value))
def test_every_parameter_is_documented_and_every_example_valid(table, name):
    entry = table.entry(name)
    assert entry.build.__doc__
    schema = TypeAdapter(entry.params).json_schema()
    for field in dataclasses.fields(entry.params):
        assert schema["properties"][field.name].get("description"), f"{name}.{field.name}"
    if entry.example or not schema.get("required"):
        params = params_from(entry.params, entry.example)
        dumped = TypeAdapter(entry.params).dump_python(params, mode="json")
        assert params_from(entry.params, dumped) == params


@pytest.mark.parametrize("name", ["digits", "mixture", "synthetic"])  # the others read files
def test_sources_give_uint8_images_and_labels_in_range_in_any_order(name):
    entry = SOURCES.entry(name)
    spec = Spec(name, params_from(entry.params, entry.example))
    pipeline = params_from(PipelineConfig, {"preprocess": {"size": [8, 8], "channels": 1}})
    opened, again = (open_data(spec, pipeline, seed=0) for _ in range(2))
    assert opened.identity == again.identity
    for split in opened.splits.values():
        source = split.source
        assert pickle.loads(pickle.dumps(source)).name(3) == source.name(3)  # noqa: S301 - our own
        image, label, bad = source.fetch(np.array([3, 0, 3]))
        assert not bad
        assert (image.dtype, image.shape) == (np.uint8, (3, 8, 8, 1))
        assert label.dtype == np.int32
        assert ((label >= 0) & (label < len(opened.class_names))).all()
        np.testing.assert_array_equal(image[0], image[2])
        one, _, _ = source.fetch(np.array([0]))
        np.testing.assert_array_equal(image[1], one[0])


def test_trackers_take_a_whole_run_and_finish_twice(tmp_path):
    from mlvlab_jax.plugins import TRACKERS

    info = RunInfo(2, 0, 4, 9, {"a": 1, "b": True, "c": "x"}, {"config": "a: 1", "parameters": "table"}, {"seed": "0"})
    for name in TRACKERS.names():
        entry = TRACKERS.entry(name)
        tracker = TRACKERS.build(Spec(name, params_from(entry.params, entry.example)), workdir=tmp_path)
        tracker.start(info)
        for step in (1, 2):
            tracker.progress(step, 0.5)
            tracker.scalars(step, {"train/loss": 0.5, "validation/loss": 0.25})
        tracker.images(1, {"first": np.zeros((2, 4, 4, 1), np.uint8)})
        tracker.histograms(1, {"w": np.arange(10.0)})
        tracker.note("done")
        tracker.finish()
        tracker.finish()
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 2
    assert list(tmp_path.glob("events.out.*"))


def test_a_taken_name_is_a_programming_error():
    table = PluginTable("thing", home="json")
    table.register("a", int)(lambda params: params)
    with pytest.raises(ValueError, match="thing 'a' is registered twice"):
        table.register("a", int)(lambda params: params)
    with pytest.raises(ConfigError, match=r"unknown thing 'b' \(there are: a\)"):
        table.entry("b")


@pytest.mark.parametrize(
    ("word", "found"), [("lr", "learning_rate"), ("batchsize", "batch_size"), ("epochs", "num_epochs"), ("zzz", None)]
)
def test_near_names_are_found_by_spelling_initials_and_parts(word, found):
    text = did_you_mean(word, ["learning_rate", "batch_size", "num_epochs"])
    assert text == (f"; did you mean {found!r}?" if found else "")
