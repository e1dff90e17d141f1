import clu.metrics
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlvlab_jax.config.fields import configclass, params_from
from mlvlab_jax.data.quarantine import refuse_bad
from mlvlab_jax.engine.experiment import make_experiment
from mlvlab_jax.engine.loop import run
from mlvlab_jax.errors import ConfigError
from mlvlab_jax.metrics.base import compute_results, make_metrics
from mlvlab_jax.plugins import METRICS, Spec
from tests.conftest import tiny_config

SOURCE = {"name": "synthetic", "params": {"num_train": 75, "num_test": 20, "height": 8, "width": 8, "channels": 1}}
BY_CLASS = [
    {"name": name, "params": METRICS.entry(name).example}
    for name in METRICS.names()
    if not name.startswith(("multilabel_", "mean_average"))
]


@pytest.fixture
def own_metric(monkeypatch):
    """A plugin of a user: CLU's own accuracy, registered under a name."""

    @configclass
    class OwnParams:
        """Nothing to choose."""

    METRICS.names()
    monkeypatch.setattr(METRICS, "_entries", dict(METRICS._entries))
    METRICS.register("own", OwnParams)(lambda params: clu.metrics.Accuracy)


def test_all_metrics_of_a_split_on_a_mesh_equal_numpy(own_metric):
    """75 examples in batches of 8 on 8 devices: more batches than are dispatched ahead, the last one padded."""
    config = tiny_config(
        data=SOURCE,
        pipeline={"validation_fraction": 0.0},
        evaluation={"batch_size": 8, "metrics": [*BY_CLASS, {"name": "own"}]},
    )
    experiment = make_experiment(config)
    split, variables = experiment.data.train, experiment.state.variables
    image, labels, _ = split.source.fetch(split.ids)
    logits, _ = experiment.model.apply(variables, jnp.asarray((image / 255.0 - 0.5) / 0.5), jax.random.key(0), False)
    with jax.transfer_guard("disallow"):  # as in the training loop
        measured = experiment.evaluator(variables, split, on_bad=refuse_bad)
    specs = [Spec(s["name"], params_from(METRICS.entry(s["name"]).params, s["params"])) for s in BY_CLASS]
    outputs = {"logits": np.asarray(logits), "labels": labels}
    expected = compute_results({n: m.from_model_output(**outputs) for n, m in make_metrics(specs).items()})
    assert measured.scalars.keys() == expected.scalars.keys() | {"own"}
    assert measured.arrays.keys() == expected.arrays.keys()
    assert measured.arrays["confusion_matrix"].sum() == len(split) == 75
    assert measured.scalars["own"] == pytest.approx(expected.scalars["accuracy"])
    for name, value in expected.scalars.items():
        np.testing.assert_allclose(measured.scalars[name], value, rtol=1e-4, err_msg=name)
    for name, value in expected.arrays.items():
        np.testing.assert_allclose(measured.arrays[name], value, rtol=1e-4, err_msg=name)


def test_the_loop_shows_the_confusion_matrix_of_each_evaluation(tmp_path, tracker):
    names = [{"name": name} for name in ("loss", "confusion_matrix")]
    config = tiny_config(training={"num_epochs": 1}, evaluation={"metrics": names})
    run(config, workdir=tmp_path, tracker=tracker)
    shown = {name: image.shape for name, image in tracker.shown.items() if "confusion" in name}
    side = 10 * 51
    assert shown == {f"{split}/confusion_matrix": (1, side, side, 3) for split in ("validation", "test")}
    assert not any("confusion" in name for _, values in tracker.records for name in values)


@pytest.mark.parametrize(
    ("changes", "path", "message"),
    [
        (
            {
                "evaluation": {"metrics": [{"name": "confusion_matrix"}]},
                "training": {"early_stopping": {"monitor": "confusion_matrix"}},
            },
            "training.early_stopping.monitor",
            "'confusion_matrix' is not measured as a number",
        ),
        (
            {"evaluation": {"metrics": [{"name": "loss"}, {"name": "multilabel_f1"}]}},
            "evaluation.metrics",
            "'multilabel_f1' takes several labels an image",
        ),
        ({"evaluation": {"metrics": [{"name": "loss"}, {"name": "loss"}]}}, "evaluation.metrics", "measured twice"),
        (
            {
                "evaluation": {"metrics": [{"name": "accuracy"}]},
                "training": {"early_stopping": {"monitor": "accuracy", "mode": "max"}},
                "schedule": {"name": "plateau"},
            },
            "evaluation.metrics",
            "the plateau schedule watches 'loss'",
        ),
    ],
)
def test_metrics_that_cannot_serve_are_refused_before_training(changes, path, message):
    with pytest.raises(ConfigError, match=message) as refused:
        make_experiment(tiny_config(**changes))
    assert refused.value.path == path
