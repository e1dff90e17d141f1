import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlvlab_jax.errors import RegistryError
from mlvlab_jax.registry.versions import is_version, parse_version

# The examples of semver.org: sections 9 to 11 and the two lists that its regular expression is tested with.
ORDERED = [
    "0.9.0",
    "1.0.0-alpha",
    "1.0.0-alpha.1",
    "1.0.0-alpha.beta",
    "1.0.0-beta",
    "1.0.0-beta.2",
    "1.0.0-beta.11",
    "1.0.0-rc.1",
    "1.0.0",
    "1.9.0",
    "1.10.0",
    "1.11.0",
    "2.0.0",
    "2.1.0",
    "2.1.1",
]
GOOD = [
    "0.0.4",
    "1.2.3",
    "10.20.30",
    "1.1.2-prerelease+meta",
    "1.1.2+meta",
    "1.1.2+meta-valid",
    "1.0.0-alpha.0valid",
    "1.0.0-alpha-a.b-c-somethinglong+build.1-aef.1-its-okay",
    "1.0.0-rc.1+build.1",
    "2.0.0-rc.1+build.123",
    "1.2.3-beta",
    "10.2.3-DEV-SNAPSHOT",
    "2.0.0+build.1848",
    "1.0.0-alpha+beta",
    "1.2.3----RC-SNAPSHOT.12.9.1--.12+788",
    "1.2.3----R-S.12.9.1--.12+meta",
    "1.0.0+0.build.1-rc.10000aaa-kk-0.1",
    "99999999999999999999999.999999999999999999.99999999999999999",
    "1.0.0-0A.is.legal",
]
BAD = [
    "1",
    "1.2",
    "1.2.3-0123",
    "1.2.3-0123.0123",
    "1.1.2+.123",
    "+invalid",
    "-invalid",
    "-invalid+invalid",
    "alpha",
    "alpha.beta",
    "alpha+beta",
    "alpha_beta",
    "alpha.1",
    "1.0.0-alpha_beta",
    "1.0.0-alpha..",
    "1.0.0-alpha..1",
    "01.1.1",
    "1.01.1",
    "1.1.01",
    "1.2.3.DEV",
    "1.2-SNAPSHOT",
    "1.2.31.2.3----RC-SNAPSHOT.12.09.1--..12+788",
    "1.2-RC-SNAPSHOT",
    "-1.0.3-gamma+b7718",
    "+justmeta",
    "9.8.7+meta+meta",
    "9.8.7-whatever+meta+meta",
]
HOSTILE = [
    "",
    " 1.0.0",
    "1.0.0\n",
    "1.0.0\0",
    "1.0.0/..",
    "../1.0.0",
    "v1.0.0",
    "\uff11.0.0",
    "1.0.0-é",
    "1.0.0+" + "a" * 200,
]


@pytest.mark.parametrize(("low", "high"), itertools.combinations(ORDERED, 2))
def test_versions_are_ordered_as_the_standard_says(low, high):
    assert parse_version(low) < parse_version(high)
    assert parse_version(high) > parse_version(low)
    assert parse_version(high) >= parse_version(low)
    assert not parse_version(high) <= parse_version(low)


@pytest.mark.parametrize("text", GOOD)
def test_what_the_standard_calls_valid_is_read(text):
    version = parse_version(text)
    written = f"{version.major}.{version.minor}.{version.patch}"
    written += f"-{'.'.join(version.prerelease)}" if version.prerelease else ""
    written += f"+{'.'.join(version.build)}" if version.build else ""
    assert written == text


@pytest.mark.parametrize("text", BAD + HOSTILE)
def test_what_the_standard_calls_invalid_is_refused(text):
    assert not is_version(text)
    with pytest.raises(RegistryError, match="semver.org") as caught:
        parse_version(text)
    assert len(str(caught.value)) < 600


@given(st.permutations([*ORDERED, "1.0.0+b", "1.0.0+a"]))
def test_any_order_is_sorted_to_the_same(texts):
    at = ORDERED.index("1.0.0") + 1
    assert sorted(texts, key=parse_version) == [*ORDERED[:at], "1.0.0+a", "1.0.0+b", *ORDERED[at:]]
