"""Examples with several classes, or none: from the table to batches, packs and reports."""

import json

import numpy as np
import pytest
from PIL import Image

from mlvlab_jax.config.fields import params_from
from mlvlab_jax.config.schema import PipelineConfig, ValidationConfig
from mlvlab_jax.data.inspection import check_before_training, inspect_data
from mlvlab_jax.data.open import open_data
from mlvlab_jax.data.pack import pack
from mlvlab_jax.data.pack_index import INDEX_FILE
from mlvlab_jax.data.profile import DataProfile
from mlvlab_jax.data.sources.manifest import ManifestParams, open_manifest
from mlvlab_jax.data.stream import eval_stream, train_stream
from mlvlab_jax.errors import DataError
from mlvlab_jax.plugins import SOURCES, Spec

CSV = "path,labels,split\na.png,cat;dog,train\nb.png,,train\nc.png,dog,train\nd.png,dog; cat;dog,test\n"
SETS = [[], [0, 1], [1]]  # of cat, dog; in numerical order


def open_table(folder, text, name="t.csv", **params):
    (folder / name).write_text(text)
    return open_manifest(ManifestParams(path=str(folder / name), **params))


def sets_of(opened, split):
    return [np.flatnonzero(opened.label_sets[label]).tolist() for label in opened.splits[split].labels]


def test_a_csv_cell_holds_any_number_of_labels(tmp_path):
    opened = open_table(tmp_path, CSV)
    assert opened.class_names == ("cat", "dog")
    assert [np.flatnonzero(row).tolist() for row in opened.label_sets] == SETS
    assert sets_of(opened, "train") == [[0, 1], [], [1]]
    assert sets_of(opened, "test") == [[0, 1]]


def test_json_lines_hold_lists_of_names_or_numbers(tmp_path):
    rows = [{"path": "a.png", "labels": [2, 0]}, {"path": "b.png", "labels": []}, {"path": "c.png", "labels": [0]}]
    opened = open_table(tmp_path, "\n".join(map(json.dumps, rows)), "t.jsonl")
    assert opened.class_names == ("0", "1", "2")
    assert sets_of(opened, "train") == [[0, 2], [], [0]]


def test_the_identity_knows_the_combinations_and_not_the_order_of_a_cell(tmp_path):
    same = open_table(tmp_path, CSV.replace("cat;dog,", "dog;cat,"))
    other = open_table(tmp_path, CSV.replace("b.png,,", "b.png,cat,"))
    assert open_table(tmp_path, CSV).identity == same.identity
    assert other.identity["index"] != same.identity["index"]


@pytest.mark.parametrize(
    ("text", "name", "params", "expected"),
    [
        (CSV.replace("split\n", "label\n"), "t.csv", {}, r"t\.csv:2: both 'label' and 'labels'; expected one of them"),
        ('{"path": "a", "label": 1}\n{"path": "b", "labels": [1]}', "t.jsonl", {}, r"t\.jsonl:2: one label here"),
        ('{"path": "a", "labels": 1}', "t.jsonl", {}, r"t\.jsonl:1: labels is 1; expected a list of class names"),
        ('{"path": "a", "labels": [true]}', "t.jsonl", {}, r"t\.jsonl:1: labels is \[True\]; expected a list"),
        ("path,labels\na.png\n", "t.csv", {}, r"t\.csv:2: labels is None; expected a list of class names"),
        ("path,labels\na.png,cat;;dog\n", "t.csv", {}, r"t\.csv:2: labels has an empty label.*take out the separator"),
        (CSV, "t.csv", {"class_names": ("cat", "dogs")}, r"t\.csv:2: 1 labels are not in the class list.*mean 'dogs'"),
        (CSV, "t.csv", {"labels_column": None}, r"t\.csv:2: no column 'label'; did you mean 'labels'\?.*labels_column"),
    ],
    ids=["both", "mixed", "no list", "boolean", "short row", "empty label", "unknown", "switched off"],
)
def test_a_bad_table_is_refused_with_line_and_fix(text, name, params, expected, tmp_path):
    with pytest.raises(DataError, match=expected):
        open_table(tmp_path, text, name, **params)


def test_too_many_combinations_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("mlvlab_jax.data.sources.manifest._MAX_SETS_BYTES", 5)
    with pytest.raises(DataError, match="3 combinations of 2 classes; expected at most 2"):
        open_table(tmp_path, CSV)


@pytest.fixture
def table(tmp_path):
    """24 images in which each channel is bright where the class of that number is there; number 5 has no class."""
    rng, rows = np.random.default_rng(0), []
    for k in range(24):
        classes = [c for c in range(3) if (k * 5 + 3) >> c & 1]
        pixels = rng.integers(0, 60, (8, 8, 3), np.uint8)
        pixels[..., classes] += 180
        Image.fromarray(pixels).save(tmp_path / f"{k}.png")
        rows.append({"path": f"{k}.png", "labels": ["rgb"[c] for c in classes], "split": "train" if k < 20 else "test"})
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "t.jsonl"


def spec_of(name, **params):
    return Spec(name, params_from(SOURCES.entry(name).params, params))


PIPELINE = params_from(PipelineConfig, {"validation_fraction": 0.0, "preprocess": {"size": [8, 8]}})


def truth(batch):
    """1 where the channel is bright; class_names are b, g, r."""
    return (batch["image"].mean((1, 2)) > 150)[:, ::-1].astype(np.uint8)


@pytest.mark.parametrize("packed", [False, True], ids=["table", "pack"])
def test_batches_carry_one_column_a_class(table, tmp_path, packed):
    source = spec_of("manifest", path=str(table))
    if packed:
        pack(source, PIPELINE, folder=tmp_path / "packed")
        source = spec_of("array_record", path=str(tmp_path / "packed"))
    data = open_data(source, PIPELINE, seed=0)
    assert (data.class_names, data.multi_label) == (("b", "g", "r"), True)
    batches = [*train_stream(data.train, batch_size=10, num_steps=4, seed=0), *eval_stream(data.train, batch_size=7)]
    for batch in batches:
        assert batch["label"].dtype == np.uint8
        np.testing.assert_array_equal(batch["label"], truth(batch))


def test_a_pack_with_sets_beyond_its_classes_is_refused(table, tmp_path):
    pack(spec_of("manifest", path=str(table)), PIPELINE, folder=tmp_path / "packed")
    path = tmp_path / "packed" / INDEX_FILE
    tree = json.loads(path.read_text())
    tree["head"]["label_sets"][0] = [3]
    path.write_text(json.dumps(tree))
    with pytest.raises(DataError, match=r"index\.json: label_sets has \[3\], beyond the 3 classes"):
        open_data(spec_of("array_record", path=str(tmp_path / "packed")), PIPELINE, seed=0)


def test_validation_counts_classes_and_names_conflicting_sets(table):
    rows = table.read_text().splitlines()
    conflicting = json.loads(rows[2]) | {"labels": ["b"]}
    table.write_text("\n".join([*rows, json.dumps(conflicting)]))
    source = spec_of("manifest", path=str(table))
    report = inspect_data(source, PIPELINE.preprocess, ValidationConfig()).report
    expected = np.zeros(3, int)
    for row in map(json.loads, table.read_text().splitlines()):
        if row["split"] == "train":
            expected += np.isin(["b", "g", "r"], row["labels"])
    assert report.splits[0].class_counts == tuple(expected.tolist())
    (found,) = [finding for finding in report.findings if finding.kind == "conflicting labels"]
    assert found.ids == (2, 20)
    assert [example.detail for example in found.examples] == ["labelled b and r", "labelled b"]


def test_validators_see_all_classes_and_the_quick_look_counts_them(table):
    source = spec_of("manifest", path=str(table), class_names=("b", "g", "r", "x"))
    rules = params_from(ValidationConfig, {"validator": "mlvlab_jax.data.validation.ImageDataValidator"})
    assert "validator" not in {f.kind for f in inspect_data(source, PIPELINE.preprocess, rules).report.findings}
    lines = check_before_training(open_data(source, PIPELINE, seed=0), ValidationConfig())
    assert lines[0] == "data: train: no example of 1 of 4 classes, such as 'x'"


def test_a_profile_counts_each_class_of_an_example():
    images = np.zeros((2, 4, 4, 3), np.uint8)
    profile = DataProfile.empty(3, 3).update(images, np.array([[1, 0, 1], [0, 0, 1]], np.uint8))
    assert profile.labels.tolist() == [1, 0, 2]


def test_a_mixture_with_several_labels_is_refused(table):
    part = {"name": "manifest", "params": {"path": str(table)}}
    mixture = spec_of("mixture", parts=[{"source": part}, {"source": {"name": "digits"}}])
    with pytest.raises(DataError, match="mixture: examples of 'manifest' have several labels each"):
        open_data(mixture, PIPELINE, seed=0)
