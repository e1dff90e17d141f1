"""Which attention runs where, decided without the device."""

import types

import jax
import jax.numpy as jnp
import pytest

from mlvlab_jax.config.fields import params_from
from mlvlab_jax.config.training import TrainingConfig
from mlvlab_jax.errors import ConfigError
from mlvlab_jax.models.attention import Accelerator, choose_attention
from mlvlab_jax.models.build import build_model
from mlvlab_jax.models.nets import attention as nets_attention
from mlvlab_jax.models.vit import VisionTransformerParams
from mlvlab_jax.plugins import MODELS, Spec
from mlvlab_jax.types import ImageSpec

VOLTA, A100, H100, B300 = (Accelerator("gpu", capability) for capability in ((7, 0), (8, 0), (9, 0), (10, 3)))
AMD, CPU, TPU = Accelerator("gpu"), Accelerator("cpu"), Accelerator("tpu")
TINY = {"hidden_size": 16, "num_heads": 2, "num_layers": 1, "patch_size": 4}

OBSTACLES = [
    (CPU, "bfloat16", 64, "needs an NVIDIA GPU, and this device is cpu"),
    (TPU, "bfloat16", 64, "needs an NVIDIA GPU, and this device is tpu"),
    (AMD, "bfloat16", 64, "this device is another GPU"),
    (VOLTA, "bfloat16", 64, "needs compute capability 8.0, and this GPU has 7.0"),
    (H100, "float32", 64, "bfloat16 or float16, and training.precision is float32"),
    (A100, "bfloat16", 20, "a multiple of 8 up to 128, and hidden_size / num_heads is 20"),
    (A100, "bfloat16", 136, "a multiple of 8 up to 128, and hidden_size / num_heads is 136"),
    (H100, "bfloat16", 264, "a multiple of 8 up to 256, and hidden_size / num_heads is 264"),
]


@pytest.mark.parametrize(
    ("device", "dtype", "head_dim"), [(A100, "bfloat16", 64), (A100, "float16", 128), (H100, "bfloat16", 136)]
)
def test_cudnn_is_taken_where_it_can_run(device, dtype, head_dim):
    for wanted in ("auto", "cudnn"):
        assert choose_attention(wanted, device=device, dtype=dtype, head_dim=head_dim) == ("cudnn", None)
    assert choose_attention("xla", device=device, dtype=dtype, head_dim=head_dim) == ("xla", None)


@pytest.mark.parametrize(("device", "dtype", "head_dim", "reason"), OBSTACLES)
def test_where_cudnn_cannot_run_auto_says_why_on_a_gpu_and_cudnn_is_refused(device, dtype, head_dim, reason):
    implementation, note = choose_attention("auto", device=device, dtype=dtype, head_dim=head_dim)
    assert implementation == "xla"
    assert (note is not None) == (device.platform == "gpu")
    assert note is None or reason in note
    with pytest.raises(ConfigError, match=reason) as caught:
        choose_attention("cudnn", device=device, dtype=dtype, head_dim=head_dim)
    assert caught.value.path == "model.params.attention"


def test_where_the_version_of_cudnn_decides_it_is_taken_on_request_only():
    implementation, note = choose_attention("auto", device=B300, dtype="bfloat16", head_dim=64)
    assert (implementation, "cuDNN 9.11" in note) == ("xla", True)
    assert choose_attention("cudnn", device=B300, dtype="bfloat16", head_dim=64) == ("cudnn", None)


@pytest.mark.parametrize("wanted", ["auto", "cudnn"])
def test_a_network_that_is_to_run_anywhere_has_xlas(wanted):
    assert choose_attention(wanted, device=None, dtype="bfloat16", head_dim=64) == ("xla", None)


@pytest.mark.parametrize(("said", "expected"), [("9.0", H100), ("10.3", B300), ("gfx90a", AMD)])
def test_a_device_says_what_it_is(said, expected):
    assert Accelerator.of(types.SimpleNamespace(platform="gpu", compute_capability=said)) == expected
    assert Accelerator.of(jax.devices()[0]) == CPU


def build(device, *, precision="bfloat16", **params):
    spec = Spec("vision_transformer", params_from(VisionTransformerParams, TINY | params))
    training = TrainingConfig(precision=precision)
    return build_model(spec, training=training, num_classes=3, image=ImageSpec(8, 8, 1), device=device)


def test_the_network_runs_what_was_chosen_and_tells_why(monkeypatch):
    asked = []

    def attention(query, key, value, *, implementation):
        asked.append((implementation, query.dtype.name, query.shape))
        return query

    monkeypatch.setattr(nets_attention.jax.nn, "dot_product_attention", attention)
    gpu = types.SimpleNamespace(platform="gpu", compute_capability="9.0")
    for model in (build(gpu), build(gpu, precision="float32"), build(jax.devices()[0])):
        jax.eval_shape(model.init, jax.random.key(0))
    assert asked == [
        ("cudnn", "bfloat16", (1, 5, 2, 8)),
        ("xla", "float32", (1, 5, 2, 8)),
        ("xla", "bfloat16", (1, 5, 2, 8)),
    ]
    assert build(gpu).notes == build(jax.devices()[0]).notes == ()
    (note,) = build(gpu, precision="float32").notes
    assert "training.precision is float32" in note


def test_cudnn_on_a_cpu_is_refused_in_training_and_runs_as_xlas_in_a_package():
    with pytest.raises(ConfigError, match="'cudnn' cannot run.*this device is cpu"):
        build(jax.devices()[0], attention="cudnn")
    spec = Spec("vision_transformer", params_from(VisionTransformerParams, TINY | {"attention": "cudnn"}))
    model = MODELS.build(spec, num_classes=3, image=ImageSpec(8, 8, 1), dtype=jnp.bfloat16)
    assert jax.jit(model.init)(jax.random.key(0)).params["head"]["kernel"].shape == (16, 3)
