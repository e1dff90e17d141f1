"""What devices can be asked for, and what is said where there are none such."""

import importlib.util

import pytest

from mlvlab_jax.errors import ConfigError
from mlvlab_jax.planning import devices
from mlvlab_jax.planning.devices import open_topology, parse_mesh

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="no libtpu: pip install 'mlvlab_jax[tpu]'"
)


def test_axes_that_are_not_named_are_one():
    assert parse_mesh("fsdp=2, data=4") == {"data": 4, "fsdp": 2, "tensor": 1}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data=8,fdsp=2", "unknown axis 'fdsp'; did you mean 'fsdp'?"),
        ("data=0", "a whole number above 0"),
        ("data", "a whole number above 0"),
        ("data=2,data=4", "each axis once"),
        ("", "unknown axis ''"),
    ],
)
def test_a_mesh_that_cannot_be_read_is_refused(text, expected):
    with pytest.raises(ConfigError, match=expected.replace("?", r"\?")):
        parse_mesh(text)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("v5:4x4", "unknown generation 'v5'; did you mean 'v5"),
        ("v5e", "'' is no shape of a v5e; expected such as v5e:1x1, v5e:2x2"),
        ("v5e:4x4x4", "no shape of a v5e"),
        ("v5p:4x4", "no shape of a v5p; expected such as v5p:2x2x1"),
        ("v5e:0x4", "no shape of a v5e"),
    ],
)
def test_a_topology_that_does_not_exist_is_refused_before_anything_is_loaded(name, expected, monkeypatch):
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: pytest.fail("looked for libtpu"))
    with pytest.raises(ConfigError, match=expected):
        open_topology(name)


def test_without_libtpu_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'mlvlab_jax\[tpu\]'"):
        open_topology("v5e:4x4")


@needs_libtpu
@pytest.mark.parametrize(("name", "kind", "count"), [("v5e:4x4", "TPU v5 lite", 16), ("v4:2x2x2", "TPU v4", 8)])
def test_a_topology_has_as_many_devices_as_chips(name, kind, count):
    found = open_topology(name)
    assert (len(found), found[0].device_kind) == (count, kind)


@needs_libtpu
def test_a_shape_that_libtpu_refuses_is_refused_in_words():
    with pytest.raises(ConfigError, match="v5e:3x5: libtpu refuses it"):
        open_topology("v5e:3x5")
