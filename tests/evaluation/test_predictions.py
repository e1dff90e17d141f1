import json

import numpy as np
import pytest
from pyarrow import parquet
from scipy.special import log_softmax

from mlvlab_jax.errors import DataError
from mlvlab_jax.evaluation.predictions import Predictions, read_predictions, write_predictions

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 30, size=(7, 3)).astype(np.float32)
MADE = Predictions(
    ids=tuple(f"images/é{k}.png" for k in range(7)),
    index=np.arange(7)[::-1] * 2**33,
    label=np.array([0, 1, 2, 0, 1, 2, 0], np.int32),
    logits=LOGITS,
    class_names=("a", "b", "ü"),
    split="test",
    step=12,
    config_hash="abc",
)


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "new" / "predictions.parquet"
    write_predictions(path, MADE)
    back = read_predictions(path)
    for name in ("ids", "class_names", "split", "step", "config_hash"):
        assert getattr(back, name) == getattr(MADE, name)
    for name in ("index", "label", "logits"):
        np.testing.assert_array_equal(getattr(back, name), getattr(MADE, name))
        assert getattr(back, name).dtype == getattr(MADE, name).dtype
    assert [entry.name for entry in path.parent.iterdir()] == ["predictions.parquet"]


def test_the_file_holds_what_other_programs_look_for(tmp_path):
    path = tmp_path / "predictions.parquet"
    write_predictions(path, MADE)
    table = parquet.read_table(path)
    assert {field.name: str(field.type) for field in table.schema} == {
        "id": "string",
        "index": "int64",
        "label": "int32",
        "prediction": "int32",
        "confidence": "float",
        "nll": "float",
        "logits": "fixed_size_list<element: float>[3]",
    }
    reference = log_softmax(LOGITS.astype(np.float64), axis=1)
    np.testing.assert_array_equal(table["prediction"], LOGITS.argmax(1))
    np.testing.assert_allclose(table["confidence"], np.exp(reference.max(1)), rtol=1e-6)
    np.testing.assert_allclose(table["nll"], -reference[np.arange(7), MADE.label], rtol=1e-6)
    assert json.loads(table.schema.metadata[b"mlvlab"]) == {
        "class_names": ["a", "b", "ü"],
        "config_hash": "abc",
        "step": 12,
        "split": "test",
    }


def test_a_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"gone\.parquet: cannot be read \(No such file"):
        read_predictions(tmp_path / "gone.parquet")
    for name, data in (("empty", b""), ("text", b"id,label\n" * 9)):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=f"{name}: no predictions .*mlvlab evaluate"):
            read_predictions(tmp_path / name)


def test_a_table_of_something_else_is_refused(tmp_path):
    path = tmp_path / "other.parquet"
    write_predictions(path, MADE)
    table = parquet.read_table(path)
    for changed in (table.replace_schema_metadata({}), table.drop_columns(["logits"])):
        parquet.write_table(changed, path)
        with pytest.raises(DataError, match="no predictions"):
            read_predictions(path)
