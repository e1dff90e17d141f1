import json
import re

import numpy as np
import pytest
from PIL import Image

from mlvlab_jax.config.fields import params_from
from mlvlab_jax.config.schema import PipelineConfig, PreprocessSpec, ValidationConfig
from mlvlab_jax.data.findings import read_report
from mlvlab_jax.data.inspection import check_before_training, inspect_data
from mlvlab_jax.data.open import open_data
from mlvlab_jax.data.profile import DataProfile
from mlvlab_jax.data.quarantine import write_quarantine
from mlvlab_jax.data.report_page import render_page
from mlvlab_jax.data.validation import DataValidator, ImageDataValidator, ValidationError, load_validator
from mlvlab_jax.errors import ConfigError, DataError
from mlvlab_jax.plugins import SOURCES, Spec
from mlvlab_jax.validate import main


def spec_of(name, **params):
    return Spec(name, params_from(SOURCES.entry(name).params, params))


def textured(rng, side=16, channels=1):
    """An image unlike any other made by the same generator."""
    coarse = rng.integers(0, 256, (8, 8, channels), np.uint8)
    return np.kron(coarse, np.ones((side // 8, side // 8, 1), np.uint8))


@pytest.fixture
def planted(tmp_path):
    """40 training and 20 test images with faults at known places."""
    rng = np.random.default_rng(0)
    x_train, x_test = (np.stack([textured(rng) for _ in range(n)]) for n in (40, 20))
    y_train, y_test = np.arange(40) % 4, np.arange(20) % 4
    x_train[7] = x_train[3]  # duplicate with the same label
    x_train[8] = x_train[4]
    y_train[8] = (y_train[4] + 1) % 4  # two labels for one image
    x_test[[5, 6]] = x_train[11]  # leak
    y_test[[5, 6]] = y_train[11]
    x_train[20] = np.where(x_train[19] > 128, x_train[19] - 1, x_train[19] + 1)  # near duplicate
    x_test[9] = np.where(x_train[25] > 128, x_train[25] - 1, x_train[25] + 1)  # near leak
    x_train[30], x_train[31] = 2, 4  # blank, and no near duplicates for that
    y_train[[33, 34]] = -1, 4
    path = tmp_path / "planted.npz"
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return path


EXPECTED = {
    ("duplicate", "train"): [7, 8],
    ("conflicting labels", "train"): [4, 8],
    ("leak", "train"): [11],
    ("near duplicate", "train"): [20],
    ("near leak", "train"): [25],
    ("blank", "train"): [30, 31],
    ("duplicate", "test"): [6],
    ("label out of range", "train"): [33, 34],
}


def test_planted_faults_are_found_exactly(planted):
    spec = spec_of("arrays", path=str(planted), class_names=("a", "b", "c", "d"))
    report, bad, _ = inspect_data(spec, PreprocessSpec(), ValidationConfig())
    assert {(f.kind, f.split): list(f.ids) for f in report.findings} == EXPECTED
    assert all(f.count == len(f.ids) == len(f.examples) for f in report.findings)
    assert [(b.split, b.example_id) for b in bad] == [("train", i) for i in (4, 8, 11, 33, 34)]
    assert [b.reason for b in bad][3:] == ["label out of range: label -1", "label out of range: label 4"]
    (leak,) = (f for f in report.findings if f.kind == "leak")
    assert leak.examples[0].detail.endswith("[test][5]")
    train, test = report.splits
    assert (train.num_examples, train.class_counts, test.class_counts) == (40, (9, 10, 9, 10), (5, 4, 4, 7))
    with np.load(planted) as file:
        np.testing.assert_allclose(train.mean, file["x_train"].mean() / 255, atol=1e-6)
        np.testing.assert_allclose(train.std, file["x_train"].std() / 255, atol=1e-6)


def test_training_leaves_out_what_the_list_names(planted, tmp_path):
    spec = spec_of("arrays", path=str(planted), class_names=("a", "b", "c", "d"))
    pipeline = {"validation_fraction": 0.0}
    with pytest.raises(DataError, match=r"2 labels out of range, first -1 at index 33; .*pipeline\.quarantine"):
        open_data(spec, params_from(PipelineConfig, pipeline), seed=0)
    bad = inspect_data(spec, PreprocessSpec(), ValidationConfig()).bad
    path = tmp_path / "list.jsonl"
    write_quarantine(path, bad)
    data = open_data(spec, params_from(PipelineConfig, pipeline | {"quarantine": str(path)}), seed=0)
    assert set(range(40)) - set(data.train.ids.tolist()) == {4, 8, 11, 33, 34}
    assert len(data.splits["test"]) == 20
    write_quarantine(path, [*bad[:-1], bad[-1]._replace(example_id=1)])  # another index: the name decides
    other = open_data(spec, params_from(PipelineConfig, pipeline | {"quarantine": str(path)}), seed=0)
    assert other.train.ids.tolist() == data.train.ids.tolist()
    assert other.identity["quarantine"] != data.identity["quarantine"]


BAD_LISTS = {
    '{"split": "train", "example_id": 0, "name": "gone.png", "reason": ""}\n': r"list\.jsonl:1: 'gone\.png' is not in .*rem",
    "\n": r"list\.jsonl:1: ''; expected an object",
    '{"split": "train"}\n': r"list\.jsonl:1: .*expected an object",
    '{"split": "train", "example_id": "x", "name": 3, "reason": ""}\n': r"list\.jsonl:1: .*expected an object",
    None: r"list\.jsonl: No such file or directory; set pipeline\.quarantine",
}


@pytest.mark.parametrize("text", BAD_LISTS)
def test_a_bad_list_is_refused_with_file_and_line(text, tmp_path):
    path = tmp_path / "list.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=BAD_LISTS[text]):
        open_data(spec_of("digits"), params_from(PipelineConfig, {"quarantine": str(path)}), seed=0)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def test_file_faults_are_found_exactly(tmp_path):
    rng = np.random.default_rng(1)
    root = tmp_path / "set"
    for name in ("cat", "dog"):
        for i in range(12):
            save(root / "train" / name / f"{i:02}.png", textured(rng, 32, 3))
        save(root / "val" / name / "0.png", textured(rng, 32, 3))
    cat, dog = root / "train" / "cat", root / "train" / "dog"
    (cat / "03.png").write_bytes((cat / "03.png").read_bytes()[:-200])
    (cat / "04.png").write_bytes(b"")
    save(cat / "05.png", textured(rng, 32, 3), format="JPEG")
    save(dog / "06.png", textured(rng, 8, 3)[:4])
    save(dog / "07.png", np.tile(textured(rng, 32, 3), (1, 5, 1)))
    save(dog / "08.png", np.kron(textured(rng, 32, 3), np.ones((5, 5, 1), np.uint8)))
    for path in (cat / "11.png", dog / "11.png"):
        save(path, textured(np.random.default_rng(5), 32, 3))
    spec = spec_of("image_folder", path=str(root))
    preprocess = PreprocessSpec(size=(32, 32))
    report, bad, _ = inspect_data(spec, preprocess, ValidationConfig())
    found = {(f.kind, f.split): list(f.ids) for f in report.findings if f.kind != "absent class"}
    assert found == {
        ("unreadable", "train"): [3, 4],
        ("wrong extension", "train"): [5],
        ("tiny", "train"): [18],
        ("odd shape", "train"): [19],
        ("size outlier", "train"): [18, 20],
        ("conflicting labels", "train"): [11, 23],
        ("duplicate", "train"): [23],
    }
    data = open_data(spec, params_from(PipelineConfig, {"preprocess": {"size": [32, 32]}}), seed=0)
    training = data.train.source.fetch(data.train.ids).bad
    assert training == {b.example_id: b.reason.removeprefix("unreadable: ") for b in bad if b.example_id < 11}


def test_empty_absent_and_uneven_classes_and_shifted_pixels_are_named(tmp_path):
    rng = np.random.default_rng(0)
    x_train, x_test = (np.stack([textured(rng) for _ in range(n)]) for n in (30, 6))
    path = tmp_path / "a.npz"
    y_train = np.array([0] * 26 + [1] * 2 + [2] * 2)
    np.savez(path, x_train=x_train // 2, y_train=y_train, x_test=x_test // 2 + 128, y_test=np.array([0, 0, 1, 1, 0, 0]))
    spec = spec_of("arrays", path=str(path), class_names=("a", "b", "c"))
    report = inspect_data(spec, PreprocessSpec(), ValidationConfig()).report
    assert {(f.kind, f.split): f.count for f in report.findings} == {
        ("class imbalance", "train"): 2,
        ("absent class", "test"): 1,
        ("statistics", "test"): 1,
    }
    assert report.num_errors == 0
    spec = spec_of("arrays", path=str(path), class_names=("a", "b", "c", "d"))
    report = inspect_data(spec, PreprocessSpec(), ValidationConfig()).report
    (empty,) = (f for f in report.findings if f.severity == "error")
    assert (empty.kind, empty.split, empty.count) == ("empty class", "train", 1)
    assert "'d'" in empty.message


def test_statistics_are_compared_with_a_reference_profile(tmp_path):
    rng = np.random.default_rng(0)
    dark = np.stack([textured(rng, channels=3) // 2 for _ in range(20)])
    np.savez(tmp_path / "dark.npz", x_train=dark, y_train=np.arange(20) % 2, x_test=dark[:4], y_test=np.arange(4) % 2)
    source, path = spec_of("arrays", path=str(tmp_path / "dark.npz")), tmp_path / "profile.json"

    def find(images):
        profile = DataProfile.empty(2, images.shape[-1]).update(images, np.zeros(len(images), np.int64))
        path.write_text(profile.to_json())
        rules = params_from(ValidationConfig, {"reference": str(path)})
        findings = inspect_data(source, PreprocessSpec(), rules).report.findings
        return [(found.split, found.message) for found in findings if found.kind == "statistics"]

    assert find(dark) == []
    bright = find(255 - dark)
    assert [split for split, _ in bright] == ["train", "test"]
    assert re.match(r"mean 0\.2\d+/.*; the reference has 0\.7", bright[0][1])
    with pytest.raises(DataError, match=r"profile\.json: profile of 1 channels, and the images have 3"):
        find(dark[..., :1])
    path.write_text("{}")
    for name, message in (("profile.json", "not a data profile"), ("none.json", "No such file.*expected a profile")):
        rules = params_from(ValidationConfig, {"reference": str(tmp_path / name)})
        with pytest.raises(DataError, match=message):
            inspect_data(source, PreprocessSpec(), rules)


def test_the_validator_accepts_good_samples_and_names_the_broken_rule():
    validator = ImageDataValidator(valid_labels=range(3), shape=(4, 4, 3))
    image = np.linspace(0, 1, 48, dtype=np.float32).reshape(4, 4, 3)
    validator.validate_sample(image, 2)
    validator.validate_batch({"images": np.stack([image, 1 - image]), "labels": np.array([0, 1])})
    validator.validate_batch({"image": np.stack([image, 1 - image]), "label": np.array([0, 1])})
    not_finite = image.copy()
    not_finite[0, 0, 0] = np.nan
    for bad, label, kind in (
        (image[:2], 0, "shape"),
        (image * 2, 0, "range"),
        (image - 0.5, 0, "range"),
        (not_finite, 0, "not finite"),
        (image, 3, "label"),
        (image, -1, "label"),
        (image, float("nan"), "label"),
    ):
        with pytest.raises(ValidationError) as caught:
            validator.validate_sample(bad, label)
        assert caught.value.kind == kind
    for batch, kind in (
        ({"images": np.stack([image, image]), "labels": np.array([0, 1])}, "batch statistics"),
        ({"images": np.stack([image, 1 - image]), "labels": np.array([0])}, "batch"),
        ({"images": image[None]}, "batch"),
    ):
        with pytest.raises(ValidationError) as caught:
            validator.validate_batch(batch)
        assert caught.value.kind == kind


class DarkOnly(ImageDataValidator):
    """The guide's way to write one: asserts, and the parent's checks of a batch."""

    def validate_sample(self, image, label):
        assert image.shape == self.shape
        assert label in self.valid_labels
        assert image.mean() < 0.9, "too bright"

    def validate_batch(self, batch):
        assert batch["images"].shape[0] == batch["labels"].shape[0]
        self._check_batch_statistics(batch["images"])


def test_a_validator_of_the_users_is_asked_about_every_example(tmp_path):
    rng = np.random.default_rng(0)
    images = np.stack([textured(rng) for _ in range(12)])
    images[[2, 9]] = 250 + images[[2, 9]] % 6
    path = tmp_path / "a.npz"
    np.savez(path, x_train=images, y_train=np.arange(12) % 2)
    rules = ValidationConfig(validator="tests.data.test_validation.DarkOnly")
    report, bad, _ = inspect_data(spec_of("arrays", path=str(path)), PreprocessSpec(), rules)
    (refused,) = (f for f in report.findings if f.severity == "error")
    assert (refused.kind, refused.ids) == ("validator", (2, 9))
    assert [b.reason for b in bad] == ["validator: assertion: too bright"] * 2


@pytest.mark.parametrize("name", ["nowhere.Validator", "json.JSONDecoder", "json.Missing", "Validator"])
def test_a_validator_that_is_none_is_a_configuration_error(name):
    with pytest.raises(ConfigError, match=name.replace(".", r"\.")) as caught:
        load_validator(name)
    assert caught.value.path == "validation.validator"
    assert issubclass(load_validator("mlvlab_jax.data.validation.ImageDataValidator"), DataValidator)


def test_the_report_survives_its_file_and_the_page_shows_and_escapes(tmp_path):
    rng = np.random.default_rng(1)
    root = tmp_path / "<set>"
    for name in ("<b>cat", "dog"):
        for i in range(3):
            save(root / name / f"<i>{i}.png", textured(rng, 32, 3))
    (root / "dog" / "<script>x.png").write_bytes(b"no image")
    save(root / "dog" / "z.png", np.full((32, 32, 3), 9, np.uint8))
    inspection = inspect_data(
        spec_of("image_folder", path=str(root)), PreprocessSpec(size=(32, 32)), ValidationConfig()
    )
    path = tmp_path / "report.json"
    path.write_text(inspection.report.to_json())
    assert read_report(path) == inspection.report
    page = render_page(inspection, title="a<b")
    assert "<script" not in page
    assert "<b>cat" not in page
    assert "&lt;script&gt;x.png" in page
    assert "<h1>Data of a&lt;b</h1>" in page
    assert page.count("data:image/png;base64,") == 1
    assert "://" not in page


def write_config(tmp_path, planted, **validation):
    config = {
        "model": {"name": "cnn", "params": {"widths": [8]}},
        "data": {"name": "arrays", "params": {"path": str(planted), "class_names": ["a", "b", "c", "d"]}},
        "validation": validation,
    }
    path = tmp_path / "c.yaml"
    path.write_text(json.dumps(config))
    return path


def test_the_command_writes_four_files_and_fails_only_when_strict(planted, tmp_path, capsys):
    path = write_config(tmp_path, planted, mode="strict")
    out = tmp_path / "out"
    assert main(["--config", str(path), "--out", str(out)]) == 65
    assert sorted(p.name for p in out.iterdir()) == [
        "quarantine.jsonl",
        "validation_report.html",
        "validation_report.json",
    ]
    assert main(["--config", str(path), "--out", str(out), "validation.mode=warn"]) == 0
    written = capsys.readouterr().out
    assert "conflicting labels" in written
    assert f"pipeline.quarantine={out / 'quarantine.jsonl'}" in written
    tree = json.loads((out / "validation_report.json").read_text())
    assert tree["version"] == 1
    assert {(f["kind"], f["split"]): f["ids"] for f in tree["findings"]} == EXPECTED
    clean = [
        "--config",
        str(path),
        "--out",
        str(out),
        f"pipeline.quarantine={out / 'quarantine.jsonl'}",
        "data.name=digits",
    ]
    assert main(clean) == 0  # strict, and nothing wrong with the digits
    assert "nothing wrong" in capsys.readouterr().out


def test_the_quick_look_names_leaks_and_bad_files_and_stops_when_strict(tmp_path):
    rng = np.random.default_rng(0)
    x_train, x_test = (np.stack([textured(rng) for _ in range(n)]) for n in (8, 4))
    x_test[[1, 3]] = x_train[[5, 6]]
    path = tmp_path / "a.npz"
    np.savez(path, x_train=x_train, y_train=np.arange(8) % 2, x_test=x_test, y_test=np.arange(4) % 2)
    pipeline = params_from(PipelineConfig, {"validation_fraction": 0.0, "preprocess": {"size": [16, 16]}})
    data = open_data(spec_of("arrays", path=str(path), class_names=("a", "b", "c")), pipeline, seed=0)
    assert check_before_training(data, ValidationConfig()) == [
        "data: 2 images of test are also in train",
        "data: train: no example of 1 of 3 classes, such as 'c'",
        "data: test: no example of 1 of 3 classes, such as 'c'",
    ]
    assert check_before_training(data, ValidationConfig(mode="off")) == []
    with pytest.raises(DataError, match=r"2 images of test are also in train\n  train: no example"):
        check_before_training(data, ValidationConfig(mode="strict"))
    root = tmp_path / "set"
    for i in range(4):
        save(root / str(i % 2) / f"{i}.png", textured(rng, 32, 3))
    (root / "1" / "3.png").write_bytes(b"")
    data = open_data(spec_of("image_folder", path=str(root)), pipeline, seed=0)
    (line,) = check_before_training(data, ValidationConfig())
    assert (
        line
        == f"data: train: 1 of 4 examples looked at are unreadable, such as {root}/1/3.png: empty: the file has no bytes"
    )


def test_a_mixture_is_validated_under_the_names_and_labels_of_its_parts(planted, tmp_path):
    rng = np.random.default_rng(3)
    root = tmp_path / "more"
    for name in ("d", "e"):
        for i in range(3):
            save(root / name / f"{i}.png", textured(rng)[..., 0])
    (root / "e" / "1.png").write_bytes(b"")
    arrays = {"name": "arrays", "params": {"path": str(planted), "class_names": ["a", "b", "c", "d"]}}
    folder = {"name": "image_folder", "params": {"path": str(root)}}
    spec = spec_of("mixture", parts=[{"source": arrays}, {"source": folder}])
    inspection = inspect_data(spec, PreprocessSpec(size=(16, 16), channels=1), ValidationConfig())
    found = {(f.kind, f.split): f for f in inspection.report.findings}
    assert found["unreadable", "train"].ids == (44,)
    assert found["unreadable", "train"].examples[0].name == f"{root}/e/1.png"
    assert found["label out of range", "train"].ids == (33, 34)
    assert found["leak", "train"].ids == (11,)
    assert inspection.report.splits[0].class_counts == (9, 10, 9, 13, 2)
    assert f"{root}/e/1.png" in render_page(inspection, title="mixed")
