import json

import numpy as np
import pytest

from mlvlab_jax.errors import DataError
from mlvlab_jax.monitoring.histograms import count_values, make_edges
from mlvlab_jax.monitoring.lines import LinesFile
from mlvlab_jax.monitoring.worst import WorstImages
from tests.monitoring.observed import draw_observations, draw_reference, read_lines


def test_lines_keep_the_newest_and_a_tenth_more(tmp_path):
    lines = LinesFile(tmp_path / "x.jsonl", keep=20)
    for number in range(22):
        lines.append([{"n": number}])
    assert [record["n"] for record in lines.read()] == list(range(22))
    lines.append([{"n": 22}])
    assert [record["n"] for record in lines.read()] == list(range(3, 23))
    again = LinesFile(tmp_path / "x.jsonl", keep=5)
    again.append([{"n": 23}, {"n": 24}])
    assert [record["n"] for record in read_lines(tmp_path / "x.jsonl")] == [20, 21, 22, 23, 24]


@pytest.mark.parametrize("torn", [b'{"n": 1', b"\x00" * 5, b'{"n": "' + b"x" * 40])
def test_a_line_that_a_crash_cut_off_goes(tmp_path, torn):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"n": 0}\n' + torn)
    lines = LinesFile(path, keep=5)
    assert lines.read() == [{"n": 0}]
    lines.append([{"n": 2}])
    assert path.read_bytes() == b'{"n": 0}\n{"n": 2}\n'


def test_a_cut_off_line_longer_than_any_tail_goes(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"n": 0}\n' + b"x" * 100_000)
    LinesFile(path, keep=5).append([{"n": 1}])
    assert read_lines(path) == [{"n": 0}, {"n": 1}]


def test_a_file_that_is_deleted_is_begun_again(tmp_path):
    lines = LinesFile(tmp_path / "folder/x.jsonl", keep=5)
    lines.append([{"n": 0}])
    (tmp_path / "folder/x.jsonl").unlink()
    (tmp_path / "folder").rmdir()
    lines.append([{"n": 1}])
    assert lines.read() == [{"n": 1}]


@pytest.mark.parametrize("line", ["{", "[]", "3"])
def test_other_lines_are_refused_by_place(tmp_path, line):
    (tmp_path / "x.jsonl").write_text('{"n": 0}\n' + line + "\n")
    with pytest.raises(DataError, match=r"x\.jsonl:2: not a JSON object"):
        LinesFile(tmp_path / "x.jsonl", keep=5)


def test_a_number_that_json_has_not_is_an_error_and_writes_nothing(tmp_path):
    lines = LinesFile(tmp_path / "x.jsonl", keep=5)
    with pytest.raises(ValueError, match="not JSON compliant"):
        lines.append([{"n": 0}, {"n": float("nan")}])
    assert lines.read() == []


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(0).normal(50, 9, 1000),
        np.full(10, 28.0),
        np.zeros(3),
        np.full(5, 1e9),
        np.array([1.0, 1.0 + 1e-12]),
        np.random.default_rng(0).lognormal(6, 2, 1000).astype(np.float32),
    ],
)
def test_edges_ascend_and_every_value_is_counted_once(values):
    edges = make_edges(values)
    assert (np.diff(edges) > 0).all()
    assert edges[0] >= 0
    assert sum(count_values(values, edges)) == len(values)
    json.dumps(count_values(values, edges))


def test_edges_leave_room_for_what_drifts_but_not_for_what_cannot_be():
    values = np.linspace(100, 200, 10_001)
    edges = make_edges(values)
    assert (edges[0], edges[-1]) == pytest.approx((101 - 24.5, 199 + 24.5))
    assert np.allclose(np.diff(edges), 147 / 30)
    assert make_edges(values / 200, highest=1.0)[-1] == 1
    assert make_edges(values - 100)[0] == 0


def test_values_beyond_the_edges_are_in_the_outer_bins_and_unknown_ones_in_none():
    edges = np.array([0.0, 1.0, 2.0, 3.0])
    assert count_values(np.array([-9, 0.5, 1.0, 2.5, 99, np.nan, np.inf], np.float32), edges) == [2, 1, 2]


def test_the_furthest_images_are_those_of_the_largest_mahalanobis_distance():
    from scipy.spatial.distance import mahalanobis

    reference, observations = draw_reference(), draw_observations(3, num=200, dim=0.9)
    embedding = reference.project(np.stack([seen.embedding for seen in observations]))
    known = reference.embedding.astype(np.float64)
    inverse = np.linalg.inv(np.cov(known.T, bias=True))
    expected = np.array([mahalanobis(row, known.mean(0), inverse) for row in embedding])
    worst = WorstImages(reference, num=5)
    worst.add(observations[:120], embedding[:120])
    worst.add(observations[120:], embedding[120:])
    found = worst.take()
    order = np.argsort(-expected)[:5]
    assert [image.request_id for image in found] == [f"r3-{place}" for place in order]
    np.testing.assert_allclose([image.distance for image in found], expected[order], rtol=0.01)
    for image, place in zip(found, order, strict=True):
        np.testing.assert_array_equal(image.image, observations[place].image)
        assert image.image.base is None
    assert worst.take() == ()


def test_an_embedding_that_is_not_finite_is_the_furthest_there_is():
    reference, observations = draw_reference(), draw_observations(3, num=4)
    embedding = np.zeros_like(reference.embedding[:4])
    embedding[1, 0], embedding[2, 0] = np.nan, np.inf
    worst = WorstImages(reference, num=3)
    worst.add(observations, embedding)
    assert [image.request_id for image in worst.take()] == ["r3-1", "r3-2", "r3-0"]


def test_no_image_is_kept_where_none_is_asked_for():
    reference, observations = draw_reference(), draw_observations(3, num=4)
    worst = WorstImages(reference, num=0)
    worst.add(observations, np.zeros_like(reference.embedding[:4]))
    assert worst.take() == ()


def test_a_reference_whose_embeddings_are_all_one_has_distances_too():
    reference = draw_reference()
    object.__setattr__(reference, "embedding", np.zeros_like(reference.embedding))
    worst = WorstImages(reference, num=1)
    worst.add(draw_observations(3, num=2), np.array([[3.0, 4, 0, 0], [0, 0, 0, 1]]))
    assert worst.take()[0].distance == pytest.approx(5)
