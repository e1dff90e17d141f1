"""Every change to a sealed folder is found, whatever file and bit it is in."""

import hashlib
import json
import shutil

import pytest
import xxhash

from mlvlab_jax.engine.integrity import _FORMAT, FORMS, NAME, find_damage, measure_files, seal, summarise


@pytest.fixture
def sealed(tmp_path):
    folder = tmp_path / "7"
    (folder / "state" / "d").mkdir(parents=True)
    (folder / "state" / "d" / "array").write_bytes(bytes(range(256)) * 5)
    (folder / "progress").write_text('{"step": 7}')
    (folder / "empty").touch()
    seal(folder)
    return folder


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def test_what_was_sealed_is_whole_wherever_it_is_moved(sealed, tmp_path):
    assert find_damage(sealed) == []
    assert find_damage(shutil.copytree(sealed, tmp_path / "elsewhere" / "7")) == []


def test_a_flipped_bit_is_found_in_every_file(sealed):
    names = ["state/d/array", "progress", NAME]
    for name in names:
        path = sealed / name
        whole = path.read_bytes()
        for bit in range(0, 8 * len(whole), 7):
            flip(path, bit)
            assert find_damage(sealed), (name, bit)
            path.write_bytes(whole)
    assert find_damage(sealed) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda folder: (folder / "progress").unlink(), "progress: missing"),
        (lambda folder: (folder / "progress").write_text("{}"), "progress: 2 bytes, expected 11"),
        (lambda folder: (folder / "progress").write_text('{"step": 8}'), "progress: other bytes than were saved"),
        (lambda folder: (folder / "empty").write_text("x"), "empty: 1 bytes, expected 0"),
        (lambda folder: (folder / "more").touch(), "more: was not there when it was saved"),
        (lambda folder: (folder / "state" / NAME).touch(), "state/integrity.json: was not there when it was saved"),
        (lambda folder: (folder / NAME).unlink(), "integrity.json: missing; the save was cut off"),
        (lambda folder: (folder / NAME).write_text("{}"), "integrity.json: damaged itself"),
        (lambda folder: (folder / NAME).write_text("[]"), "integrity.json: damaged itself"),
        (lambda folder: (folder / NAME).write_bytes(b"\xff"), "integrity.json: damaged itself"),
    ],
)
def test_it_says_which_file_is_how(sealed, change, expected):
    change(sealed)
    assert find_damage(sealed) == [expected]


def test_a_newer_format_is_no_damage_but_cannot_be_read(sealed, monkeypatch):
    monkeypatch.setattr("mlvlab_jax.engine.integrity._FORMAT", 4)
    monkeypatch.setitem(FORMS, 4, FORMS[3])
    seal(sealed)
    monkeypatch.undo()
    assert json.loads((sealed / NAME).read_text())["format"] == 4
    assert find_damage(sealed) == [
        "integrity.json: written by a newer mlvlab_jax, format 4; known here is 3; upgrade mlvlab_jax"
    ]


@pytest.mark.parametrize("number", FORMS)
def test_large_files_are_digested_in_pieces_and_a_bit_in_any_of_them_is_found(sealed, monkeypatch, number):
    form = FORMS[number]._replace(piece_bytes=min(500, FORMS[number].piece_bytes))
    monkeypatch.setitem(FORMS, number, FORMS[1] if number == 1 else form)
    monkeypatch.setattr("mlvlab_jax.engine.integrity._FORMAT", number)
    seal(sealed)
    monkeypatch.setattr("mlvlab_jax.engine.integrity._FORMAT", _FORMAT)  # what older versions wrote is still read
    for byte in (0, 499, 500, 999, 1000, 1279):
        flip(sealed / "state" / "d" / "array", 8 * byte)
        assert find_damage(sealed) == ["state/d/array: other bytes than were saved"]
        flip(sealed / "state" / "d" / "array", 8 * byte)
    assert find_damage(sealed) == []


def test_digests_are_what_they_are_called(sealed):
    data = (sealed / "state" / "d" / "array").read_bytes()
    for number, new in {1: hashlib.sha256, 2: hashlib.sha256, 3: xxhash.xxh3_128}.items():
        whole = measure_files(sealed, FORMS[number])
        assert whole["state/d/array"] == (1280, new(data).hexdigest())
        assert whole["empty"] == (0, new().hexdigest())
        pieces = b"".join(new(data[i : i + 500]).digest() for i in (0, 500, 1000))
        cut = measure_files(sealed, FORMS[number]._replace(piece_bytes=500))
        assert cut["state/d/array"] == (1280, new(pieces).hexdigest())


def test_a_long_list_is_cut():
    assert summarise(["a"]) == "a"
    assert summarise(list("abcdefg")) == "a; b; c; d; e; and 2 more"
