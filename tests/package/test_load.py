"""Opening packages: elsewhere, later, and those that somebody tampered with."""

import dataclasses
import datetime
import functools
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import types

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from mlvlab_jax.data.decode import decode_image
from mlvlab_jax.errors import DataError, PackageError
from mlvlab_jax.package.archive import write_archive
from mlvlab_jax.package.load import load_package
from mlvlab_jax.package.members import MEMBERS, OPTIONAL
from mlvlab_jax.plugins import MODELS, Entry
from tests.conftest import ROOT
from tests.package.folders import rewrite, sign_again
from tests.package.trained import TODAY

ENV = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
LATER = TODAY + datetime.timedelta(days=400)


def golden(folder):
    return safetensors.numpy.load_file(folder / "golden.safetensors")


def test_made_on_eight_devices_it_opens_on_one_in_a_process_that_knows_only_the_package(made, tmp_path):
    assert jax.device_count() == 8
    write_archive(made, tmp_path / "model.tar")
    code = """
import sys, jax, numpy as np
from pathlib import Path
from mlvlab_jax.package.load import load_package
assert jax.device_count() == 1
for name in ("package", "model.tar"):
    package = load_package(Path(name))
    image = np.load("image.npy")
    np.save(name + ".npy", package.predict_logits(image))
assert not any(m.startswith(("mlvlab_jax.engine", "mlvlab_jax.models.nets", "flax", "orbax")) for m in sys.modules)
"""
    shutil.copytree(made, tmp_path / "package")
    np.save(tmp_path / "image.npy", golden(made)["image"])
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=ENV, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for name in ("package", "model.tar"):
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), golden(made)["logits"], atol=1e-5)


def test_bytes_of_a_file_become_the_pixels_of_training(made):
    package = load_package(made)
    file = io.BytesIO()
    Image.fromarray(np.arange(35 * 50 * 3, dtype=np.uint8).reshape(35, 50, 3)).save(file, "PNG")
    pixels = package.preprocess_bytes(file.getvalue())
    assert (pixels.shape, pixels.dtype) == ((8, 8, 1), np.uint8)
    np.testing.assert_array_equal(pixels, decode_image(file.getvalue(), package.preprocess))
    assert package.predict_probabilities(pixels[None]).sum() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("shape", [(2, 8, 9, 1), (8, 8, 1), (0, 8, 8, 1), (2, 8, 8, 3)])
def test_other_images_are_refused(shape, made):
    with pytest.raises(DataError, match="expected uint8 .b, 8, 8, 1."):
        load_package(made).predict_logits(np.zeros(shape, np.uint8))
    with pytest.raises(DataError, match="images are float32"):
        load_package(made, verify=False).predict_logits(np.zeros((1, 8, 8, 1), np.float32))


def test_after_its_window_the_export_is_replaced_by_the_weights_with_a_warning(made, caplog):
    image = golden(made)["image"]
    assert load_package(made, today=datetime.date(2027, 5, 23)).source == "export"
    assert caplog.records == []
    with caplog.at_level(logging.WARNING):
        package = load_package(made, today=datetime.date(2027, 5, 24))
    assert package.source == "weights"
    assert "of 2026-11-23, and jax reads it until 2027-05-23" in caplog.text
    np.testing.assert_allclose(package.predict_logits(image), load_package(made).predict_logits(image), atol=1e-5)
    np.testing.assert_allclose(package.predict_logits(image), golden(made)["logits"], atol=1e-5)


@pytest.mark.parametrize("data", [b"", b"\x00" * 64, b"\x80\x04cposix\nsystem\n.", os.urandom(4096)])
def test_an_export_that_jax_does_not_read_is_replaced_by_the_weights(data, package, caplog):
    (package / "export/model.bin").write_bytes(data)
    sign_again(package)
    assert load_package(package).source == "weights"
    assert "does not read it" in caplog.text


def test_one_flipped_byte_in_any_file_is_refused(package):
    for name in MEMBERS.keys() - OPTIONAL:
        whole = (package / name).read_bytes()
        for at in np.linspace(0, len(whole) - 1, 20).astype(int):
            (package / name).write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
            with pytest.raises(PackageError):
                load_package(package)
        (package / name).write_bytes(whole)
    load_package(package)


def arrays_of(package, name, change):
    """Changes arrays and signs the package anew, as somebody who means harm would."""
    arrays = {key: np.array(value) for key, value in safetensors.numpy.load_file(package / name).items()}
    change(arrays)
    safetensors.numpy.save_file(arrays, package / name)
    sign_again(package)


def test_outputs_that_differ_from_the_golden_ones_are_refused_though_signed(package):
    arrays_of(package, "golden.safetensors", lambda a: a["logits"].__iadd__(0.01))
    with pytest.raises(PackageError, match="logits differ by up to 0.01"):
        load_package(package)
    load_package(package, verify=False)


def test_embeddings_that_differ_from_the_golden_ones_are_refused_though_signed(package):
    arrays_of(package, "golden.safetensors", lambda a: a["embedding"].__iadd__(0.01))
    with pytest.raises(PackageError, match="embedding differ by up to 0.01"):
        load_package(package)
    arrays_of(package, "golden.safetensors", lambda a: a.pop("embedding"))
    with pytest.raises(PackageError, match="expected .*'embedding': .'float32', .16, 16."):
        load_package(package)


def test_weights_that_are_not_finite_are_refused_though_signed(package):
    arrays_of(package, "model.safetensors", lambda arrays: [array.fill(np.nan) for array in arrays.values()])
    with pytest.raises(PackageError, match="differ by up to nan"):
        load_package(package)


@pytest.mark.parametrize("today", [TODAY, LATER])
def test_weights_of_another_network_are_refused_though_signed(today, package):
    name = next(iter(safetensors.numpy.load_file(package / "model.safetensors")))
    arrays_of(package, "model.safetensors", lambda a: a.update({name: np.zeros((3, 3), np.float32)}))
    with pytest.raises(PackageError, match=f"{name} is float32 .3, 3.; the network takes"):
        load_package(package, today=today)
    arrays_of(package, "model.safetensors", lambda a: a.pop(name))
    with pytest.raises(PackageError, match=f"{name} is absent; the network takes"):
        load_package(package, today=today)


def put_export(package, function, *, platforms=("cpu",), constraints=(), disabled_checks=()):
    """Another export in a package that is signed anew."""
    packed = safetensors.numpy.load_file(package / "model.safetensors")
    weights = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in packed.items()}
    (batch,) = jax.export.symbolic_shape("b", constraints=constraints)
    exporter = jax.export.export(jax.jit(function), platforms=platforms, disabled_checks=disabled_checks)
    exported = exporter(weights, jax.ShapeDtypeStruct((batch, 8, 8, 1), jnp.uint8))
    # That somebody turned the checks off need not be in the file.
    exported = dataclasses.replace(exported, disabled_safety_checks=())
    (package / "export/model.bin").write_bytes(exported.serialize())
    sign_again(package)


def first_pixels(weights, image, *, logits=10, embedding=16):
    pixels = image.reshape(image.shape[0], -1).astype(jnp.float32)
    return pixels[:, :logits], pixels[:, :embedding]


def test_an_export_for_another_platform_is_replaced_by_the_weights(package, caplog):
    put_export(package, first_pixels, platforms=("tpu",))
    assert load_package(package).source == "weights"
    assert "it is for tpu, and this is cpu" in caplog.text


def test_an_export_of_another_function_is_refused_though_signed(package):
    put_export(package, first_pixels)
    with pytest.raises(PackageError, match="logits differ by up to"):
        load_package(package)


def test_an_export_that_does_not_take_the_golden_batch_is_refused_though_signed(package):
    put_export(package, first_pixels, constraints=["b >= 100"])
    with pytest.raises(PackageError, match="the network does not run here"):
        load_package(package)


def test_an_export_that_calls_out_of_its_program_is_refused_though_signed(package):
    def evil(weights, image):
        logits, embedding = first_pixels(weights, image)
        shape = jax.ShapeDtypeStruct(logits.shape, jnp.float32)
        return jax.ffi.ffi_call("xla_ffi_python_cpu_callback", shape)(logits), embedding

    checks = [jax.export.DisabledSafetyCheck.custom_call("xla_ffi_python_cpu_callback")]
    put_export(package, evil, disabled_checks=checks)
    with pytest.raises(PackageError, match="1 calls out of StableHLO"):
        load_package(package)


def test_an_export_of_another_signature_is_refused_though_signed(package):
    put_export(package, functools.partial(first_pixels, logits=7))
    with pytest.raises(PackageError, match=r"'float32', \(7,\).*expected .*'float32', \(10,\)"):
        load_package(package)
    put_export(package, functools.partial(first_pixels, embedding=7))
    with pytest.raises(PackageError, match=r"'float32', \(7,\).*expected .*'float32', \(16,\)"):
        load_package(package)
    put_export(package, lambda weights, image: first_pixels(weights, image)[0])
    with pytest.raises(PackageError, match=r"expected .weights, image. and .logits, embedding."):
        load_package(package)


def test_a_network_of_a_plugin_opens_by_its_export_and_the_plugin_is_never_imported(package, tmp_path, monkeypatch):
    (tmp_path / "their_plugin.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    params = json.loads((package / "config.json").read_text())["model"]["params"]
    rewrite(package, "config.json", {"plugins": ["their_plugin"], "model": {"name": "theirs", "params": params}})
    assert load_package(package).source == "export"
    with pytest.raises(PackageError, match="their_plugin.*never imports.*import their_plugin before"):
        load_package(package, today=LATER)
    # Somebody who trusts the plugin has imported it.
    cnn = MODELS.entry("cnn")
    monkeypatch.setitem(MODELS._entries, "theirs", Entry("theirs", cnn.params, cnn.build, {}))
    monkeypatch.setitem(sys.modules, "their_plugin", types.ModuleType("their_plugin"))
    assert load_package(package, today=LATER).source == "weights"


AUDIT = """
import sys
from pathlib import Path
from mlvlab_jax.errors import PackageError
from mlvlab_jax.package.load import load_package
import jax, safetensors.numpy, mlvlab_jax.package.export, mlvlab_jax.package.network  # what a process has anyway

place, seen = sys.argv[1], []
def watch(event, args):
    if event == "pickle.find_class" or event.startswith(("subprocess", "os.exec", "os.system", "os.posix_spawn", "ctypes.dlopen")):
        seen.append((event, args))
    if event in ("import", "exec", "compile"):
        text = " ".join(str(getattr(a, "co_filename", a)) for a in args)
        if place in text or "evil" in text:
            seen.append((event, text))
sys.addaudithook(watch)
for name in sys.argv[2:]:
    try:
        load_package(Path(name))
        print(name, "opened")
    except PackageError as error:
        print(name, "refused")
print(seen)
"""


def test_no_code_is_imported_run_or_unpickled(package, tmp_path):
    """Seen by Python's own audit of imports, executed code objects and unpickled classes."""
    whole = shutil.copytree(package, tmp_path / "whole")
    places = {"whole": "opened"}
    for name, file, data in (
        ("pickle", "model.pkl", b"cevil\nrun\n(tR."),
        ("code", "evil.py", b"raise SystemExit"),
        ("weights", "model.safetensors", b"\x80\x04cevil\nrun\n(tR."),
        ("golden", "golden.safetensors", b"\x93NUMPY\x01\x00"),
    ):
        folder = shutil.copytree(whole, tmp_path / name)
        (folder / file).write_bytes(data)
        sign_again(folder)
        places[name] = "refused"
    for name, change in (("loader", {"loader_module": "evil"}), ("plugin", {"plugins": ["evil"]})):
        folder = shutil.copytree(whole, tmp_path / name)
        rewrite(folder, "config.json", change)
        places[name] = {"loader": "refused", "plugin": "opened"}[name]
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    command = [sys.executable, "-c", AUDIT, str(tmp_path), *places]
    done = subprocess.run(command, cwd=tmp_path, env=ENV, capture_output=True, text=True, check=False)
    *results, seen = done.stdout.splitlines()
    assert dict(line.split() for line in results) == places, done.stderr
    assert seen == "[]"
