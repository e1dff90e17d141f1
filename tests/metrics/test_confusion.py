import numpy as np
import pytest

from mlvlab_jax.metrics.confusion import render_confusion


def test_rows_are_shares_and_rows_without_examples_grey():
    image = render_confusion(np.array([[2, 2, 0], [0, 7, 0], [0, 0, 0]]))
    side = image.shape[1] // 3
    assert image.dtype == np.uint8
    cells = image[0, side // 2 :: side, side // 2 :: side]
    assert cells[0].tolist() == [[132, 152, 181], [132, 152, 181], [255, 255, 255]]
    assert cells[1, 1].tolist() == [8, 48, 107]
    assert (cells[2] == 224).all()
    assert (image[0, :side, :side] == cells[0, 0]).all()


@pytest.mark.parametrize(("num_classes", "side"), [(1, 512), (10, 51), (100, 8), (256, 8), (257, 1)])
def test_cells_are_legible_and_images_bounded(num_classes, side):
    image = render_confusion(np.eye(num_classes, dtype=np.int64))
    assert image.shape == (1, num_classes * side, num_classes * side, 3)
