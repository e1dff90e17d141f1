import numpy as np
import pytest

from mlvlab_jax.types import ImageSpec
from mlvlab_jax.weights.adapt import Classes, adapt, fit_head
from mlvlab_jax.weights.transforms import patches
from tests.weights.formula import draw
from tests.weights.networks import read_golden

IMAGE = ImageSpec(24, 24, 3)


def fit(arrays, shapes, *, image=IMAGE, **options):
    return adapt(arrays, shapes, image=image, **({"positions": "bicubic", "patches": "refuse"} | options))


@pytest.mark.parametrize("side", [3, 6])
def test_positions_are_laid_on_another_grid_as_timm_does(side):
    kernel = np.zeros((4 * 4 * 3, 3), np.float32)
    arrays = {"params/patch_embed/kernel": kernel, "params/pos_embed": draw("positions", (1, 17, 3))}
    shapes = {"params/patch_embed/kernel": kernel.shape, "params/pos_embed": (1, side * side + 1, 3)}
    done = fit(arrays, shapes, image=ImageSpec(4 * side, 4 * side, 3))
    assert not done.problems
    expected = read_golden("resized")["positions"][str(side)]
    np.testing.assert_allclose(done.arrays["params/pos_embed"], expected, atol=1e-5)
    assert done.changes == [f"params/pos_embed: (1, 17, 3) -> (1, {side * side + 1}, 3)"]
    linear = fit(arrays, shapes, image=ImageSpec(4 * side, 4 * side, 3), positions="bilinear")
    assert np.abs(linear.arrays["params/pos_embed"] - expected).max() > 1e-3


def test_positions_of_a_class_token_that_is_not_there_are_named():
    kernel = np.zeros((4 * 4 * 3, 3), np.float32)
    arrays = {"params/patch_embed/kernel": kernel, "params/pos_embed": draw("positions", (1, 17, 3))}
    shapes = {"params/patch_embed/kernel": kernel.shape, "params/pos_embed": (1, 36, 3)}
    (problem,) = fit(arrays, shapes).problems
    assert "17 tokens" in problem
    assert "model.params.position: learned" in problem


@pytest.mark.parametrize("side", [3, 6])
def test_patches_are_resized_as_timm_does(side):
    (kernel,) = patches(3).to_ours(draw("patches", (2, 3, 4, 4)))
    shapes = {"params/patch_embed/kernel": (side * side * 3, 2)}
    (problem,) = fit({"params/patch_embed/kernel": kernel}, shapes).problems
    assert f"patches of 4 pixels, the network has {side}" in problem
    done = fit({"params/patch_embed/kernel": kernel}, shapes, patches="resize")
    (theirs,) = patches(3).to_theirs(done.arrays["params/patch_embed/kernel"])
    np.testing.assert_allclose(theirs, read_golden("resized")["patches"][str(side)], atol=1e-4)


@pytest.mark.parametrize("name", ["patch_embed", "Conv_0"])
def test_colours_are_summed_for_grey_images(name):
    kernel = draw("kernel", (4, 4, 3, 5))
    flat = kernel if name == "Conv_0" else kernel.reshape(-1, 5)
    shape = (4, 4, 1, 5) if name == "Conv_0" else (16, 5)
    done = fit({f"params/{name}/kernel": flat}, {f"params/{name}/kernel": shape}, image=ImageSpec(24, 24, 1))
    assert not done.problems
    made = done.arrays[f"params/{name}/kernel"].reshape(4, 4, 5)
    np.testing.assert_allclose(made, kernel[:, :, 0] + kernel[:, :, 1] + kernel[:, :, 2], rtol=1e-6)


HEAD = {"params/head/kernel": draw("head", (4, 3)), "params/head/bias": np.arange(3, dtype=np.float32)}
ANIMALS = Classes(3, ("cat", "dog", "ant"))


def test_a_head_is_kept_for_the_same_classes_and_where_nobody_names_them():
    for has, wants in ((ANIMALS, ANIMALS), (Classes(3), ANIMALS), (ANIMALS, Classes(3))):
        done = fit_head(HEAD, has=has, wants=wants, chosen=None)
        assert not done.problems
        assert done.arrays["params/head/bias"] is HEAD["params/head/bias"]


@pytest.mark.parametrize(
    ("wants", "message"),
    [
        (Classes(10), "made for 3 classes, the data has 10; take weights.head: new"),
        (Classes(3, ("cat", "ant", "dog")), "made for other classes (2 of 3, such as 'dog' for 'ant'"),
    ],
)
def test_a_head_for_other_classes_is_refused(wants, message):
    (problem,) = fit_head(HEAD, has=ANIMALS, wants=wants, chosen=None).problems
    assert message in problem


def test_outputs_are_taken_by_number_and_by_name():
    done = fit_head(HEAD, has=ANIMALS, wants=Classes(2, ("Ameise", "Katze")), chosen=("ant", 0))
    np.testing.assert_array_equal(done.arrays["params/head/bias"], [2, 0])
    np.testing.assert_array_equal(done.arrays["params/head/kernel"], HEAD["params/head/kernel"][:, [2, 0]])


@pytest.mark.parametrize(
    ("chosen", "message"),
    [((0,), "names 1 outputs, the data has 2"), (("dgo", 0), "did you mean 'dog'"), ((0, 3), "numbers from 0 to 2")],
)
def test_outputs_that_are_not_there_are_named(chosen, message):
    problems = fit_head(HEAD, has=ANIMALS, wants=Classes(2), chosen=chosen).problems
    assert any(message in problem for problem in problems)
