"""Nothing in this project reads a format that can hold code."""

import re

import pytest

from tests.conftest import ROOT

BANNED = re.compile(
    r"\b(pickle|cloudpickle|dill|joblib|marshal|shelve)\b|allow_pickle=True|\b(eval|exec)\("
    # BaseLoader makes strings, lists and mappings and nothing else.
    r"|yaml\.(unsafe_|full_)?load(_all)?\((?![^\n]*Loader=yaml\.BaseLoader)"
)


def find_banned(text):
    return [match.group() for match in BANNED.finditer(text)]


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from joblib import load",
        "np.load(f, allow_pickle=True)",
        "yaml.load(text)",
        "yaml.unsafe_load(t)",
        "eval(x)",
    ],
)
def test_the_search_finds_what_it_is_for(text):
    assert find_banned(text)


def test_nothing_in_the_package_reads_pickles_or_runs_text():
    files = sorted((ROOT / "mlvlab_jax").rglob("*.py"))
    assert len(files) > 90
    found = {str(path.relative_to(ROOT)): hits for path in files if (hits := find_banned(path.read_text()))}
    assert found == {}
