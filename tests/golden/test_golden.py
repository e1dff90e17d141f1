import pytest

from tests.golden.refresh import CONFIGS, GOLDEN, render


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_configuration_is_what_it_was(path):
    assert render(path) == (GOLDEN / f"{path.stem}.txt").read_text(), (
        "intended? then: make golden, and look at the diff"
    )
