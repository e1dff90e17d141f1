import json

import numpy as np
import pytest
from PIL import Image

from mlvlab_jax.data.sources.manifest import ManifestParams, open_manifest
from mlvlab_jax.errors import DataError

GOOD = "path,label,split\na.png,cat,train\nb.png,dog,train\nc.png,dog,test\n"


def open_table(folder, text, name="t.csv", **params):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return open_manifest(ManifestParams(path=str(path), **params))


def rows_of(opened):
    return {name: list(zip(split.paths, split.labels.tolist(), strict=True)) for name, split in opened.splits.items()}


EXPECTED = {"train": [("a.png", 0), ("b.png", 1)], "test": [("c.png", 1)]}


@pytest.mark.parametrize(
    "data",
    [
        GOOD.encode(),
        b"\xef\xbb\xbf" + GOOD.encode(),  # as Excel saves "CSV UTF-8"
        b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode(),
        GOOD.replace("train", " Training ").encode(),
        GOOD.replace("\n", "\n\n").encode(),
        GOOD.replace("cat", '"cat"').encode(),
    ],
    ids=["plain", "BOM", "BOM and CRLF", "split names", "blank lines", "quotes"],
)
def test_a_csv_is_read_as_it_comes(data, tmp_path):
    opened = open_table(tmp_path, data)
    assert rows_of(opened) == EXPECTED
    assert opened.class_names == ("cat", "dog")


@pytest.mark.parametrize("prefix", [b"", b"\xef\xbb\xbf"])
def test_json_lines_are_read_with_and_without_a_mark(prefix, tmp_path):
    lines = [dict(zip(("path", "label", "split"), row.split(","), strict=True)) for row in GOOD.splitlines()[1:]]
    text = prefix + "\r\n".join(map(json.dumps, lines)).encode()
    assert rows_of(open_table(tmp_path, text, "t.jsonl")) == EXPECTED


BAD_TABLES = {
    "empty file": ("", {}, r"t\.csv: no rows; expected a line of column names"),
    "heads alone": ("path,label,split\n", {}, r"t\.csv: no rows"),
    "no label column": (
        "path,lable\na.png,cat\n",
        {},
        r"t\.csv:2: no column 'label'; did you mean 'lable'\? .*label_col",
    ),
    "short row": (GOOD + "d.png\n", {}, r"t\.csv:5: label is None; expected one class name"),
    "no path": (GOOD + ",cat,train\n", {}, r"t\.csv:5: path is ''; expected the path of an image"),
    "no label": (GOOD + "d.png,,train\n", {}, r"t\.csv:5: label is ''; expected one class name"),
    "unknown split": (
        GOOD + "d.png,cat,trian\n",
        {},
        r"t\.csv:5: split is 'trian'; expected train, validation or test",
    ),
    "unknown label": (
        GOOD + "d.png,cta,train\n",
        {"class_names": ("cat", "dog")},
        r"t\.csv:5: 1 labels are not in the class list, such as 'cta'; did you mean 'cat'\?.*class_names",
    ),
    "number beyond the list": (
        "path,label\na.png,0\nb.png,2\n",
        {"class_names": ("cat", "dog")},
        r"t\.csv:3: 1 labels are not in the class list, such as '2'.*class_names",
    ),
    "fraction": (
        "path,label\na.png,0\nb.png,nan\nc.png,1.5\n",
        {"class_names": ("0", "1")},
        r"t\.csv:3: 2 labels are not",
    ),
    "article number": ("path,label\na.png,0\nb.png,99999999999\n", {}, r"t\.csv:3: label 99999999999; .*class_names"),
    "one class": ("path,label\na.png,cat\n", {}, r"t\.csv: 1 classes \['cat'\]; expected at least two"),
    "no training rows": (
        GOOD.replace("train", "test"),
        {},
        r"t\.csv: no rows for training; expected 'train' in column 's",
    ),
    "open quote": (GOOD + '"d.png,cat,train\n', {}, r"t\.csv:5: not CSV: .*; quote values"),
    "UTF-16": (GOOD.encode("utf-16"), {}, r"t\.csv: not UTF-8 text at byte 0; save the file as UTF-8"),
    "latin-1": (GOOD.replace("cat", "k\xe4se").encode("latin-1"), {}, r"t\.csv: not UTF-8 text at byte \d+; save"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_a_bad_csv_is_refused_with_file_line_and_fix(name, tmp_path):
    text, params, expected = BAD_TABLES[name]
    with pytest.raises(DataError, match=expected):
        open_table(tmp_path, text, **params)


BAD_LINES = {
    "{'path': 1}": r"t\.jsonl:2: not JSON: .*; expected one object a line",
    '["b.png", "dog"]': r"t\.jsonl:2: \['b\.png', 'dog'\]; expected an object",
    '{"path": "b.png", "label": NaN}': r"t\.jsonl:2: label is nan; expected one class name or whole number",
    '{"path": "b.png", "label": 1.5}': r"t\.jsonl:2: label is 1\.5; expected",
    '{"path": "b.png", "label": null}': r"t\.jsonl:2: label is None; expected",
    '{"path": 7, "label": "dog"}': r"t\.jsonl:2: path is 7; expected the path",
    '{"label": "dog"}': r"t\.jsonl:2: no column 'path'.*path_column",
    '{"path": "b.png", "label": "dog"': r"t\.jsonl:2: not JSON",
}


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_bad_json_line_is_refused_with_file_line_and_fix(line, tmp_path):
    with pytest.raises(DataError, match=BAD_LINES[line]):
        open_table(tmp_path, f'{{"path": "a.png", "label": "cat"}}\n{line}\n', "t.jsonl")


def test_a_table_that_is_missing_a_folder_or_of_another_kind_is_refused(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "t.xlsx").write_bytes(b"PK")
    for name, expected in (
        ("gone.csv", "No such file or directory; set data.params.path"),
        ("folder.csv", "Is a directory; set data.params.path"),
        ("t.xlsx", r"expected a file ending in \.csv or \.jsonl; set data.params.path"),
    ):
        with pytest.raises(DataError, match=f"{name}: {expected}"):
            open_manifest(ManifestParams(path=str(tmp_path / name)))


def test_paths_that_cannot_be_read_are_named_when_they_are_read(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "good.png")
    (tmp_path / "folder.png").mkdir()
    lines = [
        {"path": path, "label": k % 2} for k, path in enumerate(["good.png", "gone.png", "folder.png", "a\0b.png"])
    ]
    opened = open_table(tmp_path, "\n".join(map(json.dumps, lines)), "t.jsonl")
    problems = [record.problem for record in opened.splits["train"].read(np.arange(4))]
    assert problems == ["", "No such file or directory", "not a file", "no path that there can be"]
