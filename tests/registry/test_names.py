import pytest

from mlvlab_jax.errors import RegistryError
from mlvlab_jax.registry.names import check_alias, check_name, parse_reference

BAD_NAMES = {
    "empty": "",
    "slash": "a/b",
    "backslash": "a\\b",
    "parent": "..",
    "parent inside": "../../etc/passwd",
    "absolute": "/etc/passwd",
    "hidden": ".hidden",
    "option": "-rf",
    "NUL": "digits\0.txt",
    "new line": "digits\n",
    "space": "my model",
    "quote": "x' OR '1'='1",
    "cyrillic a": "digits-\u0430",
    "full width": "\uff44igits",
    "right to left": "digits\u202e",
    "zero width": "dig\u200bits",
    "combining": "e\u0301",
    "half a pair": "a\udc80",
    "long": "a" * 101,
}


@pytest.mark.parametrize("case", BAD_NAMES)
def test_a_name_that_could_mean_something_else_is_refused(case):
    with pytest.raises(RegistryError, match="expected 1 to 100 of the characters") as caught:
        check_name(BAD_NAMES[case])
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["vision_transformer", "ViT-B", "v1.2", "0", "a" * 100])
def test_ordinary_names_are_taken(name):
    check_name(name)


@pytest.mark.parametrize(
    "alias", ["", "latest", "v1", "v12", "Champion", "1.0.0", "a/b", "..", "a\0", "a\n", "å", "a" * 51]
)
def test_an_alias_that_could_mean_something_else_is_refused(alias):
    with pytest.raises(RegistryError, match="for example champion"):
        check_alias(alias)


def test_references():
    assert parse_reference("digits") == ("digits", None, None)
    assert parse_reference("digits:1.0.0-rc.1+b") == ("digits", "1.0.0-rc.1+b", None)
    assert parse_reference("digits@champion") == ("digits", None, "champion")


@pytest.mark.parametrize(
    "text", ["digits:", "digits@", "digits:champion", "digits@1.0.0", "digits@a:1.0.0", ":1.0.0", "a/b:1.0.0"]
)
def test_a_reference_that_is_not_well_formed_is_refused(text):
    with pytest.raises(RegistryError, match="expected"):
        parse_reference(text)
