"""Bits that really flip: found where a step is computed twice or copies are compared, and never where none flipped."""

import collections
import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from mlvlab_jax.engine import updates as updates_module
from mlvlab_jax.engine.double_check import CheckedUpdates, check_determinism, make_checked_updates
from mlvlab_jax.engine.experiment import make_experiment
from mlvlab_jax.engine.integrity import find_damage
from mlvlab_jax.engine.loop import run
from mlvlab_jax.engine.recovery import list_steps
from mlvlab_jax.engine.updates import Streamed, make_updates
from mlvlab_jax.errors import ConfigError, CorruptionError
from mlvlab_jax.trees import compute_digest, named_leaves
from tests.conftest import RecordingTracker, merge, tiny_config

NET = {"name": "cnn", "params": {"widths": [8], "convs_per_stage": 1, "dropout": 0.2}}
# Wide enough for a kernel of 2,304 values, of which each device has a part.
SPREAD = {"model": {"params": {"widths": [16], "convs_per_stage": 2}}, "mesh": {"data": 2, "fsdp": 4}}


def checked_config(*, replay=None, compare=None, **changes):
    rules = {"replay_every_steps": replay, "compare_replicas_every_steps": compare}
    return tiny_config(**merge({"model": NET, "training": {"ema_decay": 0.9, "integrity": rules}}, changes))


def open_updates(config, workdir):
    experiment = make_experiment(config)
    updates = make_updates(config, experiment, on_bad=lambda found: None)
    return experiment, make_checked_updates(updates, config, experiment, workdir=workdir)


def make_all(updates, state):
    """Every update of a run."""
    batches = updates.batches(0)
    for _ in updates.plan(0):
        state, _ = updates(state, next(batches))


def count_dispatches(monkeypatch, kind):
    """Dispatches of the runs from now on."""
    calls, call = [], kind.__call__

    def counting(self, state, batch):
        calls.append(1)
        return call(self, state, batch)

    monkeypatch.setattr(kind, "__call__", counting)
    return calls


def test_without_checks_the_updates_are_what_they_were(tmp_path, monkeypatch):
    _, updates = open_updates(checked_config(), tmp_path)
    assert type(updates) is Streamed
    calls = count_dispatches(monkeypatch, Streamed)
    run(checked_config(training={"num_epochs": 1}), workdir=tmp_path / "run", tracker=RecordingTracker())
    assert len(calls) == 5


@pytest.mark.parametrize(
    ("changes", "num_steps"),
    [
        ({}, 100),
        (SPREAD, 100),
        pytest.param({}, 1000, marks=pytest.mark.slow),
        pytest.param(SPREAD, 1000, marks=pytest.mark.slow),
    ],
    ids=["data=8", "fsdp=4 data=2", "data=8 long", "fsdp=4 data=2 long"],
)
def test_a_run_checked_at_every_step_raises_no_alarm_and_ends_with_the_same_bits(changes, num_steps, tmp_path):
    changes = merge(changes, {"training": {"num_epochs": num_steps / 4.5}, "evaluation": {"every_epochs": 10}})
    plain = run(checked_config(**changes), workdir=tmp_path / "plain", tracker=RecordingTracker())
    config = checked_config(replay=1, compare=1, **changes)
    checked = run(config, workdir=tmp_path / "checked", tracker=RecordingTracker())
    assert checked.progress.step == num_steps
    assert compute_digest(checked.state) == compute_digest(plain.state)
    assert checked.progress == plain.progress


@pytest.mark.parametrize(("every", "extra"), [(5, 3), (100, 0)])
def test_one_step_in_so_many_is_made_twice(every, extra, tmp_path, monkeypatch):
    calls = count_dispatches(monkeypatch, Streamed)
    run(checked_config(replay=every), workdir=tmp_path, tracker=RecordingTracker())
    assert len(calls) == 18 + extra


def test_of_several_updates_a_dispatch_the_dispatch_with_a_due_one_is_checked(tmp_path, monkeypatch, plan_faults):
    several = {"training": {"steps_per_dispatch": 2, "num_epochs": 2}, "tracking": {"log_every_steps": 4}}
    several = several | {"evaluation": {"every_epochs": 2}}
    calls = count_dispatches(monkeypatch, updates_module.Held)
    config = checked_config(replay=3, **several)
    result = run(config, workdir=tmp_path / "run", tracker=RecordingTracker())
    assert len(calls) == 5 + 3  # 1-2, 3-4, 5-6, 7-8, 9: steps 3, 6 and 9 are due
    plain = run(checked_config(**several), workdir=tmp_path / "plain", tracker=RecordingTracker())
    assert compute_digest(result.state) == compute_digest(plain.state)
    plan_faults("update:2=do:flip:3:1:30")
    with pytest.raises(CorruptionError, match="step 4: the update was computed twice, and the results differ"):
        run(config, workdir=tmp_path / "flipped", tracker=RecordingTracker())


def pick_flips(state, count):
    """Leaf, device and bit of exponents, at random; and the leaf's name."""
    generator, leaves = np.random.default_rng(7), named_leaves(state)
    floats = [index for index, (_, leaf) in enumerate(leaves) if leaf.dtype == jnp.float32]
    for _ in range(count):
        index, device = int(generator.choice(floats)), int(generator.integers(8))
        name, leaf = leaves[index]
        part = leaf.addressable_shards[device].data
        bit = 32 * int(generator.integers(part.size)) + int(generator.integers(23, 31))
        yield name, device, f"flip:{index}:{device}:{bit}"


@pytest.mark.parametrize("count", [6, pytest.param(32, marks=pytest.mark.slow)])
@pytest.mark.parametrize("changes", [{}, SPREAD], ids=["data=8", "fsdp=4 data=2"])
def test_every_flip_of_an_exponent_bit_is_found_where_the_step_is_made_twice(changes, count, tmp_path, plan_faults):
    experiment, updates = open_updates(checked_config(replay=1, **changes), tmp_path)
    batch, _ = next(updates.batches(0)), next(updates.plan(0))
    for number, (name, device, word) in enumerate(pick_flips(experiment.state, count)):
        plan_faults(f"update:{number % 2 + 1}=do:{word}")  # in the first computation, then in the second, ...
        # By the order of the mesh, which is not that of the devices' numbers where it has several axes.
        where = experiment.mesh.devices.flat[device]
        with pytest.raises(
            CorruptionError, match=rf"step 1: .* differ: {name} on {where} \(process 0, [^)]+\); expected"
        ):
            updates(jax.tree.map(jnp.copy, experiment.state), batch)
    plan_faults("update:9=do:never")
    updates(experiment.state, batch)


def with_faulty_device(experiment, flips):
    """The experiment, its gradient of the head's bias computed wrong by one device now and then.

    Args:
        experiment: The right one.
        flips: (device, which of its updates from 1): where bit 27 of the first value is flipped.
    """
    calls = collections.Counter()

    def choose_bits(device):
        calls[int(device)] += 1
        return np.uint32(((int(device), calls[int(device)]) in flips) << 27)

    def flip(grad):
        device = jax.lax.axis_index(experiment.mesh.axis_names)
        bits = jax.pure_callback(choose_bits, jax.ShapeDtypeStruct((), jnp.uint32), device)
        words = jax.lax.bitcast_convert_type(grad, jnp.uint32)
        return jax.lax.bitcast_convert_type(words.at[0].set(words[0] ^ bits), jnp.float32)

    def update(grads, state, params):
        bias = jax.shard_map(flip, mesh=experiment.mesh, in_specs=P(), out_specs=P(), check_vma=False)(
            grads["head"]["bias"]
        )
        return tx.update({**grads, "head": {**grads["head"], "bias": bias}}, state, params)

    tx = experiment.optimizer.tx
    optimizer = experiment.optimizer._replace(tx=optax.GradientTransformation(tx.init, update))
    return dataclasses.replace(experiment, optimizer=optimizer)


def test_a_bit_of_a_gradient_flipped_on_one_replica_is_found_before_it_is_applied(tmp_path):
    # Each device makes steps 1, 2 and 3, and with a replay of every second step the 2nd once more, before the 3rd.
    for rules, step, found in [({"replay": 2}, 2, "was computed twice"), ({"compare": 3}, 3, "copies on different")]:
        config = checked_config(**rules, training={"ema_decay": None}, optimizer={"name": "sgd"})
        experiment = with_faulty_device(make_experiment(config), {(5, 2)})
        updates = make_updates(config, experiment, on_bad=lambda found: None)
        updates = make_checked_updates(updates, config, experiment, workdir=tmp_path)
        where = f"variables/params/head/bias on {jax.devices()[5]} "
        with pytest.raises(CorruptionError, match=f"step {step}: .*{found}.*{where}"):
            make_all(updates, experiment.state)


def test_a_flip_between_checks_is_seen_by_its_copies_when_they_are_compared(tmp_path, plan_faults):
    changes = {"checkpoint": {"every_steps": 4, "keep_last": 9}, "training": {"num_epochs": 2}}
    changes |= {"evaluation": {"every_epochs": 2}}
    whole = run(checked_config(**changes), workdir=tmp_path / "whole", tracker=RecordingTracker())
    leaf = [name for name, _ in named_leaves(whole.state)].index("variables/params/head/kernel")
    plan_faults(f"update:5=do:flip:{leaf}:3:40")
    unseen = run(checked_config(replay=100, **changes), workdir=tmp_path / "unseen", tracker=RecordingTracker())
    assert compute_digest(unseen.state) != compute_digest(whole.state)
    plan_faults(f"update:5=do:flip:{leaf}:3:40")
    config, workdir, tracker = checked_config(compare=7, **changes), tmp_path / "seen", RecordingTracker()
    with pytest.raises(CorruptionError) as caught:
        run(config, workdir=workdir, tracker=tracker)
    message = str(caught.value)
    assert message.startswith("step 7: copies on different devices differ")
    # What the steps after the flip do with it is summed over the devices, and so the same on all.
    assert f"variables/params/head/kernel on {jax.devices()[3]} (process 0, " in message
    assert str(jax.devices()[2]) not in message
    assert f"mlvlab replay --workdir {workdir} --step 7" in message
    assert caught.value.exit_code == 70
    assert tracker.finished == 1
    assert list_steps(workdir / "checkpoints") == [4]
    assert find_damage(workdir / "checkpoints" / "4") == []
    plan_faults("update:99=do:never")
    resumed = run(config, workdir=workdir, tracker=RecordingTracker())
    assert compute_digest(resumed.state) == compute_digest(whole.state)


def test_what_is_saved_was_compared_though_no_comparison_was_due(tmp_path, plan_faults):
    plan_faults("update:3=do:flip:4:0:20")
    config = checked_config(compare=1000, checkpoint={"every_steps": 4})
    with pytest.raises(CorruptionError, match="step 4: copies on different devices differ") as caught:
        run(config, workdir=tmp_path, tracker=RecordingTracker())
    assert f" on {jax.devices()[0]} (process 0, " in str(caught.value)
    assert list_steps(tmp_path / "checkpoints") == []


def test_a_wrong_loss_alone_is_found(tmp_path):
    experiment, updates = open_updates(checked_config(replay=1), tmp_path)
    assert isinstance(updates, CheckedUpdates)
    batch, _ = next(updates.batches(0)), next(updates.plan(0))
    calls, make = [], updates._make

    def lying(state, batch):
        state, scalars = make(state, batch)
        calls.append(1)
        return state, scalars + len(calls) * jnp.float32(2**-10)

    updates._make = lying
    with pytest.raises(CorruptionError, match="differ: loss and other scalars; expected"):
        updates(experiment.state, batch)


GPU = types.SimpleNamespace(devices=np.array([types.SimpleNamespace(platform="gpu")]))


@pytest.mark.parametrize(
    ("changes", "flags", "refused"),
    [
        ({"replay": 10}, "", True),
        ({"replay": 10}, "--xla_gpu_deterministic_ops=false", True),
        ({"replay": 10}, "--xla_gpu_autotune_level=0 --xla_gpu_deterministic_ops=true", False),
        ({"replay": 10}, "--xla_gpu_exclude_nondeterministic_ops=true", False),
        ({"replay": 10, "compile_options": {"xla_gpu_deterministic_ops": True}}, "", False),
        ({"compare": 10}, "", False),
        ({}, "", False),
    ],
)
def test_on_gpus_a_step_is_made_twice_only_where_equal_bits_were_asked_for(changes, flags, refused):
    config = checked_config(**changes)
    if not refused:
        check_determinism(config, GPU, flags=flags)
        return
    with pytest.raises(ConfigError, match="XLA_FLAGS=--xla_gpu_deterministic_ops=true.*set one of them") as caught:
        check_determinism(config, GPU, flags=flags)
    assert caught.value.path == "training.integrity.replay_every_steps"
    check_determinism(config, make_experiment(config).mesh, flags="")


def test_the_names_of_the_options_are_those_of_the_compiler():
    for name in ("xla_gpu_deterministic_ops", "xla_gpu_exclude_nondeterministic_ops"):
        jax.jit(lambda: 0, compiler_options={name: True}).lower().compile()
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option"):
        jax.jit(lambda: 0, compiler_options={"xla_gpu_deterministic": True}).lower().compile()
