import textwrap

import pytest

from mlvlab_jax.config.load import config_from_tree
from mlvlab_jax.errors import ConfigError
from mlvlab_jax.sweeps.space import Dimension, configure, load_space
from tests.conftest import tiny_config


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "s.yaml"
        path.write_text(textwrap.dedent(text))
        return path

    return write


SPACE = """
trials: 3
space:
  training.learning_rate: {low: 1e-4, high: 1e-2, log: true}
  training.batch_size: {low: 32, high: 256, step: 32}
"""

BAD_FILES = {
    "typo": ("space:\n  a.b: {lo: 1, high: 2}", r"s\.yaml:2: space\.a\.b\.lo: unknown key; did you mean 'low'\?"),
    "top": ("space: {a: {values: [1]}}\nprunner: 1", r"s\.yaml:2: prunner: unknown key; did you mean 'pruner'\?"),
    "empty range": ("space:\n  a.b: {low: 3, high: 2}", r"s\.yaml:2: space\.a\.b: low 3 is not below high 2"),
    "half a range": ("space:\n\n  a.b: {low: 3}", r"s\.yaml:3: space\.a\.b: expected \{low: \.\.\., high: \.\.\.\}"),
    "both": ("space:\n  a.b: {low: 3, values: [1]}", r"s\.yaml:2: .*values cannot be together with low"),
    "twice": ("space:\n  a.b: {values: [1, 2, 1]}", r"s\.yaml:2: .*must be different from one another"),
    "log of 0": ("space:\n  a.b: {low: 0, high: 1.0, log: true}", "log needs low above 0"),
    "text": ('space:\n  a.b: {low: "1", high: 2}', r"s\.yaml:2: space\.a\.b\.low: expected a number, found '1'"),
    "step": ("space:\n  a.b: {low: 0.1, high: 1.0, step: 0.4}", "do not end at high 1.0; 0.9 fits"),
    "metric": ("metric: test/accuracy\nspace: {a: {values: [1]}}", r"s\.yaml:1: metric: 'test/accuracy' cannot"),
    "sampler": (
        "space: {a: {values: [1]}}\nsampler:\n  name: bayes",
        r"s\.yaml:3: sampler\.name: expected 'tpe', 'random' or 'grid', found 'bayes'",
    ),
    "endless grid": (
        "sampler: {name: grid}\nspace: {a.b: {low: 0.1, high: 1.0}}",
        "a grid needs values or a step for a.b",
    ),
    "nothing": ("space: {}", "names nothing to vary"),
    "evaluations": ("space: {evaluation.every_epochs: {low: 1, high: 2}}", "set pruner.name: none"),
    "missing": ("trials: 3", "space: is missing"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_space_is_refused_with_its_place(name, write):
    text, expected = BAD_FILES[name]
    with pytest.raises(ConfigError, match=expected):
        load_space(write(text))


BAD_PATHS = {
    "unknown": (
        "space:\n  training.learning_rat: {low: 0.1, high: 1.0}",
        r"s\.yaml:2: training\.learning_rat: unknown key; did you mean 'learning_rate'\?",
    ),
    "unknown parameter": (
        "space:\n  model.params.width: {values: [1, 2]}",
        r"s\.yaml:2: model\.params\.width: unknown key; did you mean 'widths'\?",
    ),
    "second value": (
        "space:\n  seed: {values: [1]}\n  model.params.dropout: {values: [0.1, 1.5]}",
        r"s\.yaml:3: model\.params\.dropout: .*1\.5",
    ),
    "upper end": (
        "space:\n  training.label_smoothing: {low: 0.0, high: 1.0}",
        r"s\.yaml:2: training\.label_smoothing: .*1",
    ),
    "fraction of a batch": ("space:\n  training.batch_size: {low: 1.5, high: 8.5}", "a whole number"),
    "override": (
        "overrides:\n  training.epochs: 3\nspace: {seed: {values: [1]}}",
        r"s\.yaml:2: training\.epochs: unknown",
    ),
    "both": ("space: {seed: {values: [1]}}\noverrides: {seed: 3}", r"s\.yaml:2: seed: is in 'space' as well"),
}


@pytest.mark.parametrize("name", BAD_PATHS)
def test_paths_and_values_are_tried_on_the_configuration(name, write):
    text, expected = BAD_PATHS[name]
    with pytest.raises(ConfigError, match=expected):
        load_space(write(text)).fix(tiny_config())


def test_a_path_set_on_the_command_line_as_well_is_refused(write):
    with pytest.raises(ConfigError, match=r"s\.yaml:4: training\.learning_rate: is set here and on the command line"):
        load_space(write(SPACE)).fix(tiny_config(), overridden=frozenset({"training.learning_rate", "seed"}))


def test_overrides_hold_in_every_trial(write):
    loaded = load_space(write(SPACE + "overrides: {training.num_epochs: 2, model.params.widths: [4]}"))
    assert loaded.fix(tiny_config()) == tiny_config(
        training={"num_epochs": 2}, model={"name": "cnn", "params": {"widths": [4]}}
    )


def test_a_trial_is_the_configuration_with_its_values():
    params = {
        "model.params.widths": [4],
        "model.name": "cnn",
        "optimizer": {"name": "sgd", "params": {"momentum": 0.5}},
    }
    expected = tiny_config(model={"params": {"widths": [4]}}, optimizer=params["optimizer"])
    assert configure(tiny_config(), params) == expected


def test_another_model_comes_with_its_own_parameters():
    # In this order of keys the parameters would be lost again if the name were laid over them.
    params = {"model.params.patch_size": 4, "model.name": "vision_transformer"}
    config = configure(config_from_tree({"model": {"name": "cnn"}}), params)
    assert (config.model.name, config.model.params.patch_size) == ("vision_transformer", 4)


def test_points_of_a_range_are_exact():
    assert Dimension(low=0.1, high=0.5, step=0.1).points() == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert Dimension(low=32, high=128, step=32).points() == [32, 64, 96, 128]
    assert Dimension(low=2, high=4).points() == [2, 3, 4]
    assert Dimension(values=([1], "a", None)).points() == [[1], "a", None]
    assert Dimension(low=0.1, high=0.5).points() is None
    assert Dimension(low=1, high=8, log=True).points() is None


def test_a_grid_is_never_longer_than_its_points(write):
    text = "trials: {}\nsampler: {{name: {}}}\nspace: {{seed: {{values: [1, 2]}}, training.batch_size: {{low: 1, high: 3}}}}"
    assert load_space(write(text.format(20, "grid"))).space.num_trials() == 6
    assert load_space(write(text.format(4, "grid"))).space.num_trials() == 4
    assert load_space(write(text.format(4, "tpe"))).space.num_trials(9) == 9
