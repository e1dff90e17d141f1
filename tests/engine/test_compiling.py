import threading

import jax
import jax.numpy as jnp
import pytest

from mlvlab_jax.data.quarantine import refuse_bad
from mlvlab_jax.engine.compiling import AheadOfTime, check_compile_options, describe_arrays
from mlvlab_jax.engine.experiment import make_experiment
from mlvlab_jax.engine.loop import run
from mlvlab_jax.engine.updates import make_updates
from mlvlab_jax.errors import ConfigError
from tests.conftest import RecordingTracker, tiny_config


def test_a_program_is_traced_in_another_thread_before_it_is_called():
    threads, traced = [], threading.Event()

    def double(x):
        threads.append(threading.current_thread())
        traced.set()
        return 2 * x

    x = jnp.arange(3.0)
    program = AheadOfTime(jax.jit(double), (describe_arrays(x),))
    assert traced.wait(60)
    assert program(x).tolist() == program(x).tolist() == [0.0, 2.0, 4.0]
    assert len(threads) == 1
    assert threads[0] is not threading.current_thread()


def test_an_error_of_tracing_arrives_with_the_call():
    def wrong(x):
        raise KeyError("not there")

    program = AheadOfTime(jax.jit(wrong), (jax.ShapeDtypeStruct((3,), jnp.float32),))
    for _ in range(2):
        with pytest.raises(KeyError, match="not there"):
            program(jnp.arange(3.0))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"xla_no_such_option": 1}, "xla_no_such_option: 1 is refused .*No such compile option"),
        ({"xla_embed_ir_in_executable": "maybe"}, "'maybe' is refused .* not a valid bool value"),
    ],
)
def test_an_option_the_compiler_does_not_know_is_refused_before_anything_is_written(options, expected, tmp_path):
    with pytest.raises(ConfigError, match=expected) as caught:
        run(tiny_config(compile_options=options), workdir=tmp_path / "new", tracker=RecordingTracker())
    assert (caught.value.path, caught.value.exit_code) == ("compile_options", 64)
    assert not (tmp_path / "new").exists()


def test_options_reach_the_compiler_of_the_training_step(monkeypatch):
    given, jit = [], jax.jit

    def noting(function, **options):
        if options.get("compiler_options"):
            given.append((function.__name__, options["compiler_options"]))
        return jit(function, **options)

    monkeypatch.setattr(jax, "jit", noting)
    monkeypatch.setattr(AheadOfTime, "__init__", lambda self, function, arguments: None)
    experiment = make_experiment(tiny_config())
    for count, name in ((1, "train_step"), (2, "many")):
        options = {"xla_backend_optimization_level": count}
        config = tiny_config(compile_options=options, training={"steps_per_dispatch": count})
        make_updates(config, experiment, on_bad=refuse_bad)
        assert given.pop() == (name, options)


def test_known_options_pass():
    check_compile_options({"xla_embed_ir_in_executable": True, "xla_backend_optimization_level": 2})
