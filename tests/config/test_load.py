import json
import textwrap

import pytest
import yaml

from mlvlab_jax.config.load import (
    compute_hash,
    config_from_tree,
    diff_identity,
    json_schema,
    load_config,
    to_tree,
    to_yaml,
)
from mlvlab_jax.errors import ConfigError

SEED_EXAMPLE = """
model:
  name: "vision_transformer"
  params:
    hidden_size: 768
    num_heads: 12
    num_layers: 12
    dropout: 0.1

training:
  batch_size: 32
  learning_rate: 0.0001
  num_epochs: 100
  early_stopping:
    patience: 10
    min_delta: 0.001
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="c.yaml"):
        path = tmp_path / name
        path.write_text(textwrap.dedent(text))
        return path

    return write


def test_the_guides_example_loads_as_it_stands(write):
    config = load_config([write(SEED_EXAMPLE)]).config
    assert config.model.name == "vision_transformer"
    assert (config.model.params.hidden_size, config.model.params.num_heads, config.model.params.dropout) == (
        768,
        12,
        0.1,
    )
    assert config.training.early_stopping.patience == 10
    assert config.training.early_stopping.min_delta == 0.001


def test_numbers_follow_yaml_1_2(write):
    text = "model: {name: cnn}\ntraining: {learning_rate: 1e-4}\nplugins: [json]\n"
    assert load_config([write(text)]).config.training.learning_rate == 1e-4


def test_later_files_and_overrides_win(write):
    base = write("model: {name: cnn}\ntraining: {batch_size: 8, num_epochs: 3}", "base.yaml")
    over = write("training: {batch_size: 16}", "over.yaml")
    config = load_config([base, over], ["training.batch_size=32", "model.params.widths=[4, 8]"]).config
    assert (config.training.batch_size, config.training.num_epochs) == (32, 3)
    assert config.model.params.widths == (4, 8)


def test_extends_is_relative_to_the_file_and_lies_below_it(write, tmp_path):
    (tmp_path / "fragments").mkdir()
    write("training: {batch_size: 8, num_epochs: 3}", "fragments/t.yaml")
    path = write("extends: fragments/t.yaml\nmodel: {name: cnn}\ntraining: {num_epochs: 5}")
    config = load_config([path]).config
    assert (config.training.batch_size, config.training.num_epochs) == (8, 5)


def test_another_plugin_name_drops_the_old_params(write):
    path = write("model: {name: cnn, params: {widths: [4]}}")
    assert load_config([path], ["model.name=resnet"]).config.model.params.depth == 18


def test_the_resolved_yaml_reads_back_equal(write):
    config = load_config([write(SEED_EXAMPLE)]).config
    assert config_from_tree(yaml.safe_load(to_yaml(config))) == config
    json.dumps(to_tree(config))


def test_operational_fields_do_not_change_the_hash(write):
    path = write("model: {name: cnn}\ndata: {name: arrays, params: {path: a}}")
    config = load_config([path]).config
    moved = load_config([path], ["data.params.path=b", "tracking.log_every_steps=1", "pipeline.num_threads=9"]).config
    other = load_config([path], ["seed=1"]).config
    assert compute_hash(config) == compute_hash(moved)
    assert diff_identity(config, other) == ["seed: 0 -> 1"]


def test_the_schema_lists_every_plugin_with_its_parameters():
    schema = json.dumps(json_schema())
    for word in ("vision_transformer", "hidden_size", "tfds", "muon", "rsqrt", "top_k", "tensorboard", "extends"):
        assert f'"{word}"' in schema


BAD = {
    "unknown key": ("model: {name: cnn}\ntraining: {lr: 1e-4}", "c.yaml:2: training.lr: unknown key; did you mean 'learning_rate'?"),
    "near key": ("model: {name: cnn}\ntraining: {batchsize: 4}", "did you mean 'batch_size'?"),
    "unknown section": ("model: {name: cnn}\ntrain: {}", "c.yaml:2: train: unknown key; did you mean 'training'?"),
    "unknown key in params": ("model:\n  name: cnn\n  params:\n    width: [3]", "c.yaml:4: model.params.width: unknown key; did you mean 'widths'?"),
    "wrong type": ("model: {name: cnn}\ntraining: {batch_size: big}", "c.yaml:2: training.batch_size: expected a whole number, found 'big'"),
    "quoted number": ("model: {name: cnn}\ntraining: {learning_rate: '1e-4'}", "expected a number, found '1e-4'; remove the quotes"),
    "fraction for count": ("model: {name: cnn}\ntraining: {batch_size: 2.5}", "expected a whole number, found 2.5"),
    "boolean for count": ("model: {name: cnn}\ntraining: {batch_size: true}", "expected a whole number, found True"),
    "word for boolean": ("model: {name: cnn}\ncompile_cache: on", "expected true or false, found 'on'"),
    "out of range": ("model: {name: cnn}\ntraining: {learning_rate: -1}", "training.learning_rate: expected greater than 0, found -1"),
    "infinite": ("model: {name: cnn}\ntraining: {learning_rate: 1e999}", "training.learning_rate: expected a finite number"),
    "duplicate key": ("seed: 1\nmodel: {name: cnn}\nseed: 2", "c.yaml:3: seed: key is already on line 1; keep one"),
    "unknown model": ("model: {name: vit}", "c.yaml:1: model: unknown model 'vit'"),
    "near model": ("model: {name: resnett}", "did you mean 'resnet'?"),
    "near variant": ("model: {name: vision_transformer, params: {variant: So400}}", "model.params.variant: expected 'Ti', 'S', 'B', 'L', 'H', 'So400m', 'g' or 'G', found 'So400'; did you mean 'So400m'?"),
    "variant in another case": ("model: {name: convnext, params: {variant: xl}}", "found 'xl'; did you mean 'XL'?"),
    "variant that is a number": ("model: {name: resnet, params: {depth: 51}}", "expected 18, 34, 50, 101 or 152, found 51"),
    "missing model": ("seed: 1", "model: is missing; add it"),
    "heads": ("model:\n  name: vision_transformer\n  params: {hidden_size: 100, num_heads: 12}", "num_heads 12 does not divide hidden_size 100; expected a divisor; 10 fits"),
    "params beside name": ("model: {name: cnn, widths: [3]}", "unknown key 'widths'; 'widths' belongs under 'params'"),
    "model as text": ("model: cnn", "model: expected {name: ..., params: {...}}, found 'cnn'"),
    "section as list": ("model: {name: cnn}\ntraining: [1]", "training: expected a section"),
    "null": ("model: {name: cnn}\nseed: null", "seed: expected a whole number, found None"),
    "tab": ("model:\n\tname: cnn", "c.yaml:2: not YAML"),
    "not a mapping": ("- 1", "c.yaml:1: expected 'key: value' lines"),
    "empty": ("", "model: is missing; add it"),
    "object tag": ("model: !!python/object/apply:os.getcwd []", "model"),
    "set tag": ("model: !!binary abc=", "c.yaml:1"),
    "two crops": ("model: {name: cnn}\npipeline:\n  augment: {crop_padding: 4, random_resized_crop: {}}", "c.yaml:3: pipeline.augment: crop_padding 4 and random_resized_crop both crop; expected one of them"),
    "two policies": ("model: {name: cnn}\npipeline: {augment: {three_augment: true, randaugment: {}}}", "randaugment and three_augment are alternatives"),
    "unknown key in a section that may be null": ("model: {name: cnn}\npipeline: {augment: {mixup: {alfa: 1}}}", "pipeline.augment.mixup.alfa: unknown key; did you mean 'alpha'?"),
    "empty range": ("model: {name: cnn}\npipeline: {augment: {erasing: {area: [0.3, 0.1]}}}", "area [0.3, 0.1] is empty; expected [smallest, largest]; [0.1, 0.3] fits"),
    "too strong": ("model: {name: cnn}\npipeline: {augment: {randaugment: {magnitude: 30}}}", "pipeline.augment.randaugment.magnitude: expected less than or equal to 10, found 30"),
    "in a list": ("model: {name: cnn}\nevaluation:\n  metrics:\n  - {name: top_k, params: {q: 3}}", "c.yaml:4: evaluation.metrics[0].params.q: unknown key; known here: k"),
    "no such plugin module": ("model: {name: cnn}\nplugins: [no_such_module_x]", "c.yaml:2: plugins[0]: cannot import 'no_such_module_x'"),
    "no such fragment": ("extends: gone.yaml\nmodel: {name: cnn}", "gone.yaml: No such file or directory"),
    "extends itself": ("extends: c.yaml\nmodel: {name: cnn}", "extends itself (c.yaml -> c.yaml)"),
    "extends a number": ("extends: 3\nmodel: {name: cnn}", "c.yaml:1: extends: expected a file name"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_with_place_and_fix(name, write):
    text, expected = BAD[name]
    with pytest.raises(ConfigError) as caught:
        load_config([write(text)])
    assert expected in str(caught.value)


def test_multiplying_aliases_are_refused(write):
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    with pytest.raises(ConfigError, match="more than 10000 values"):
        load_config([write("\n".join(lines))])


def test_all_errors_come_at_once_in_the_order_of_the_file(write):
    path = write("seed: x\nmodel: {name: cnn}\ntraining:\n  lr: 1\n  batch_size: 0\ndata: {name: digit}")
    with pytest.raises(ConfigError) as caught:
        load_config([path])
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[1] for line in lines] == ["seed", "training.lr", "training.batch_size", "data"]


@pytest.mark.parametrize(
    "override", ["x", "=3", "a..b=3", "training.batch_size=[", "training.lr=3", "seed=!!binary x="]
)
def test_a_bad_override_is_refused(override, write):
    with pytest.raises(ConfigError, match="override|not a YAML value|plain value"):
        load_config([write("model: {name: cnn}")], [override])


def test_no_file_is_refused():
    with pytest.raises(ConfigError, match="--config configs/digits.yaml"):
        load_config([])


def test_missing_and_binary_files_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.yaml: No such file or directory"):
        load_config([tmp_path / "gone.yaml"])
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config([tmp_path / "binary.yaml"])


def test_a_place_is_found_for_a_field_and_for_the_section_above(write):
    loaded = load_config([write("model:\n  name: cnn\n")], ["seed=4"])
    assert loaded.locate("model.params.widths").endswith("c.yaml:1")
    assert loaded.locate("seed") == "override 'seed=4'"
    assert loaded.locate("mesh") == ""


def test_a_configuration_read_back_has_the_same_hash(tmp_path):
    (tmp_path / "c.yaml").write_text("model: {name: cnn}\ntraining: {}\nevaluation: {}\n")
    config = load_config([tmp_path / "c.yaml"], []).config
    assert compute_hash(config_from_tree(yaml.safe_load(to_yaml(config)))) == compute_hash(config)
