"""Networks that tell no embedding: plugins of two functions, as users write them."""

import jax
import jax.numpy as jnp
import numpy as np

from mlvlab_jax.metrics.classification import NoParams
from mlvlab_jax.models.nets.api import Model, Variables
from mlvlab_jax.package.export import export_forward, make_stamp, open_export
from mlvlab_jax.package.network import make_forward
from mlvlab_jax.plugins import MODELS
from mlvlab_jax.types import ImageSpec
from tests.conftest import tiny_config
from tests.package.trained import TODAY

IMAGE = ImageSpec(4, 4, 1)


def test_a_network_of_two_functions_has_its_logits_for_an_embedding(monkeypatch, tmp_path):
    monkeypatch.setattr(MODELS, "_entries", dict(MODELS._entries))

    @MODELS.register("theirs", NoParams, example={})
    def build(params, *, num_classes, image, dtype):
        return Model(
            lambda key: Variables({"kernel": jax.random.normal(key, (16, num_classes))}, {}),
            lambda variables, image, key, train: (image.reshape(-1, 16) @ variables.params["kernel"], {}),
        )

    config = tiny_config(model={"name": "theirs"}, pipeline={"mean": [0.5], "std": [0.25]})
    forward, shapes = make_forward(config, num_classes=3, image=IMAGE)
    weights = {"params/kernel": np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)}
    image = np.random.default_rng(1).integers(0, 256, (2, *IMAGE), np.uint8)
    (tmp_path / "model.bin").write_bytes(export_forward(forward, shapes, image=IMAGE))
    exported = open_export(
        tmp_path / "model.bin", make_stamp(TODAY), weights=shapes, image=IMAGE, widths=(3, 3), today=TODAY
    )
    expected = (image.reshape(2, 16) / 255 - 0.5) / 0.25 @ weights["params/kernel"]
    for network in (forward, exported):
        logits, embedding = network(weights, jnp.asarray(image))
        np.testing.assert_allclose(logits, expected, rtol=1e-4)
        np.testing.assert_array_equal(embedding, logits)
