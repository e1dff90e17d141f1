"""What is written of the examples of a step, whatever they are called and however many they are."""

import json
import math

import numpy as np
import pytest

from mlvlab_jax.data.open import open_data
from mlvlab_jax.engine.per_example import PerExample
from mlvlab_jax.report.examples import describe_examples, write_page_of_examples
from mlvlab_jax.types import HostBatch
from tests.browsing import Document, text_of
from tests.conftest import tiny_config

SCALARS = {"loss_sum": 24.0, "num_examples": 16.0, "grad_norm": 0.25, "learning_rate": 1e-3}


def make_row(index, **changes):
    row = {"id": index, "name": f"a/b/{index}.png", "label": "cat", "target": {"cat": 1.0}}
    return row | {"loss": 1.0, "grad_norm": 2.0} | changes


def write(path, rows):
    images = np.zeros((len(rows), 4, 4, 3), np.uint8)
    write_page_of_examples(path, rows, seen=images, stored=images, title="run, step 7", scalars=SCALARS)
    return path.read_text()


def test_examples_are_described_in_the_order_given_with_names_of_classes():
    config = tiny_config()
    data = open_data(config.data, config.pipeline, seed=0)
    ids = np.array([5, 7, 2], np.int32)
    batch = HostBatch(image=None, label=np.array([0, 1, 2]), example_id=ids, epoch=None, mask=None)
    measured = PerExample(np.float32([1, 2, math.nan]), np.float32([3, 4, math.inf]))
    target = np.float32([[1, 0, 0], [0.25, 0.75, 0], [0, 0, 1]])
    rows = describe_examples(data, batch, measured, target, order=np.array([2, 1, 0]))
    assert [row["id"] for row in rows] == [2, 7, 5]
    names = data.class_names
    assert rows[1] == {
        "id": 7,
        "name": data.train.source.name(7),
        "label": names[1],
        "target": {names[0]: 0.25, names[1]: 0.75},
        "loss": 2.0,
        "grad_norm": 4.0,
    }
    read = json.loads(json.dumps(rows))[0]
    assert (math.isnan(read["loss"]), read["grad_norm"]) == (True, math.inf)


@pytest.mark.parametrize(("count", "shown"), [(16, "All 16 examples"), (300, "The first 96 of 300 examples")])
def test_the_page_shows_as_many_as_can_be_looked_at_and_says_so(count, shown, tmp_path):
    page = write(tmp_path / "index.html", [make_row(k, grad_norm=float(k)) for k in range(count)])
    figures = min(count, 96)
    document = Document(page)
    assert (len(document.all("figure")), len(document.all("img"))) == (figures, 2 * figures)
    text = text_of(page)
    assert shown in text
    assert "run, step 7 Loss 1.5 , gradient norm 0.25 , learning rate 1e-3" in text
    assert f"The median norm is {(count - 1) / 2:g}:" in text


def test_mixed_targets_and_hostile_names_are_told_as_text(tmp_path):
    rows = [
        make_row(1, label="<script>", name="x/<img src=1>", target={"dog": 0.3, "<script>": 0.7}),
        make_row(2, loss=math.nan, grad_norm=math.inf),
    ]
    page = write(tmp_path / "index.html", rows)
    assert len(Document(page).all("img")) == 4
    assert "<script" not in page
    assert "target 70\u00a0% &lt;script&gt; + 30\u00a0% dog" in page
    assert page.count('<p class="quiet">target') == 1
    assert "Examples whose loss is not finite: 1;" in page
    assert 'style="width: 100.0%"' in page
