import numpy as np

from mlvlab_jax.data.columns import ColumnReader
from mlvlab_jax.data.sources.manifest import ManifestParams, open_manifest


def read(*values, num_empty=0):
    reader = ColumnReader(num_empty=num_empty)
    for value in values:
        reader.add(value)
    return reader.finish()


def texts(column):
    return [column.values[code] for code in column.codes]


def test_texts_are_kept_as_codes_and_numbers_also_as_numbers():
    column = read("left", " right ", None, "left")
    assert texts(column) == ["left", "right", "", "left"]
    assert column.numbers is None
    numbers = read("1.5", 2, "", "-3e2", num_empty=1)
    np.testing.assert_array_equal(numbers.numbers, [np.nan, 1.5, 2, np.nan, -300])
    assert texts(numbers) == ["", "1.5", "2", "", "-3e2"]


def test_free_text_is_forgotten_and_many_numbers_are_not():
    assert read(*(f"note {k}" for k in range(2000))) is None
    assert read("x" * 201, "y") is None
    column = read(*range(2000))
    assert column.codes is None
    np.testing.assert_array_equal(column.numbers, np.arange(2000))


def test_a_manifest_offers_its_other_columns_split_by_split(tmp_path):
    (tmp_path / "t.csv").write_text(
        "path,label,split,camera,age,weight\n"
        "a.png,cat,train,left,1,1\nb.png,dog,train,right,,2\nc.png,dog,test,right,7,1\nd.png,cat,train,left,3,1\n"
    )
    opened = open_manifest(ManifestParams(path=str(tmp_path / "t.csv")))
    assert {split: list(columns) for split, columns in opened.columns.items()} == {
        "train": ["age", "camera"],
        "test": ["age", "camera"],
    }
    assert texts(opened.columns["train"]["camera"]) == ["left", "right", "left"]
    np.testing.assert_array_equal(opened.columns["train"]["age"].numbers, [1, np.nan, 3])
    assert texts(opened.columns["test"]["camera"]) == ["right"]


def test_rows_without_a_key_have_an_empty_value(tmp_path):
    lines = ['{"path": "a", "label": "x"}', '{"path": "b", "label": "y", "site": 3}', '{"path": "c", "label": "y"}']
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    column = open_manifest(ManifestParams(path=str(tmp_path / "t.jsonl"))).columns["train"]["site"]
    assert texts(column) == ["", "3", ""]
    np.testing.assert_array_equal(column.numbers, [np.nan, 3, np.nan])


def test_a_manifest_keeps_at_most_a_hundred_columns(tmp_path):
    rows = [f'{{"path": "p{k}", "label": "{k % 2}", "own {k}": 1}}' for k in range(300)]
    (tmp_path / "t.jsonl").write_text("\n".join(rows))
    assert len(open_manifest(ManifestParams(path=str(tmp_path / "t.jsonl"))).columns["train"]) == 100
