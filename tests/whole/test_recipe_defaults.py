"""Every key of a recipe has the default, the bounds and the choices that recipe_defaults.toml lists."""

import math
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tinyllama.errors import RecipeError
from tinyllama.recipe import Recipe, load_recipe

LISTED: dict[str, dict[str, dict[str, Any]]] = tomllib.loads(
    (Path(__file__).parent / "recipe_defaults.toml").read_text(encoding="utf-8")
)
BOUNDS = ("ge", "gt", "le", "lt")
KEYS = [(section, key) for section, keys in LISTED.items() for key in keys]
BOUNDED = [
    (section, key, bound) for section, key in KEYS for bound in BOUNDS if LISTED[section][key].get(bound) is not None
]
MEND = "; if it changed on purpose, change its line in tests/whole/recipe_defaults.toml in the same commit"


def fields(section: str) -> Any:
    return Recipe.model_fields[section].annotation


def values_at(section: str, key: str, bound: str) -> tuple[float, float]:
    """The last value that is accepted at a bound, and the next one beyond."""
    limit = LISTED[section][key][bound]
    inwards = 1 if bound in ("ge", "gt") else -1
    if fields(section).model_fields[key].annotation in (int, int | None):
        return limit, limit - inwards
    inside = math.nextafter(limit, inwards * math.inf)
    return (limit, math.nextafter(limit, -inwards * math.inf)) if bound in ("ge", "le") else (inside, limit)


def faults_of_key(section: str, key: str, value: Any) -> list[str]:
    """What the key alone refuses; other keys may refuse the value beside it."""
    try:
        fields(section)(**{key: value})
    except ValidationError as error:
        return [fault["msg"] for fault in error.errors() if fault["loc"] == (key,)]
    return []


def test_the_list_has_every_key_and_no_other():
    assert {name: set(keys) for name, keys in LISTED.items()} == {
        name: set(fields(name).model_fields) for name in Recipe.model_fields
    }, MEND


@pytest.mark.parametrize("section", LISTED)
def test_defaults_are_those_listed(section: str):
    made = load_recipe(None).model_dump()[section]
    for key, found in made.items():
        wanted = LISTED[section][key].get("default")
        assert (type(found), found) == (type(wanted), wanted), f"{section}.{key}: default {found!r}{MEND}"


@pytest.mark.parametrize("section", LISTED)
def test_what_says_only_how_a_result_is_reached_is_listed(section: str):
    listed = {key for key, row in LISTED[section].items() if row.get("how_only")}
    assert fields(section).how_only_names() == listed, MEND


@pytest.mark.parametrize(("section", "key", "bound"), BOUNDED)
def test_a_bound_is_the_last_value_that_is_accepted(section: str, key: str, bound: str):
    inside, beyond = values_at(section, key, bound)
    assert faults_of_key(section, key, inside) == []
    with pytest.raises(RecipeError) as caught:
        load_recipe(None, [f"{section}.{key}={beyond!r}"])
    assert str(caught.value).startswith(f"command line: {section}.{key} = {beyond!r} should be "), MEND


@pytest.mark.parametrize(("section", "key"), [(s, k) for s, k in KEYS if not {*BOUNDS} & LISTED[s][k].keys()])
def test_a_key_without_bounds_has_none(section: str, key: str):
    kind = fields(section).model_fields[key].annotation
    if kind in (int, float):
        assert faults_of_key(section, key, kind(-(10**30))) == faults_of_key(section, key, kind(10**30)) == []


def unbounded_sides() -> Iterator[tuple[str, str, float]]:
    """Keys with a bound on one side only, and a value far off on the other."""
    for section, key, bound in BOUNDED:
        low, high = {"ge", "gt"}, {"le", "lt"}
        other = high if bound in low else low
        if not other & LISTED[section][key].keys():
            yield section, key, 10**15 if bound in low else -(10**15)


@pytest.mark.parametrize(("section", "key", "far"), unbounded_sides())
def test_the_other_side_is_open(section: str, key: str, far: float):
    assert faults_of_key(section, key, far) == []


@pytest.mark.parametrize(("section", "key"), [(s, k) for s, k in KEYS if "choices" in LISTED[s][k]])
def test_choices_are_those_listed(section: str, key: str):
    for choice in LISTED[section][key]["choices"]:
        assert faults_of_key(section, key, choice) == []
    with pytest.raises(RecipeError) as caught:
        load_recipe(None, [f"{section}.{key}=other"])
    words = str(caught.value)
    assert words.startswith(f'command line: {section}.{key} = "other" should be ')
    assert {choice for choice in LISTED[section][key]["choices"] if f"'{choice}'" in words} == {
        *LISTED[section][key]["choices"]
    }
    assert words.count("'") == 2 * len(LISTED[section][key]["choices"]), MEND


@pytest.mark.parametrize("key", ["temperature", "repetition_penalty"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_what_must_be_finite_is_refused_otherwise(key: str, value: str):
    with pytest.raises(RecipeError, match=rf"generate\.{key} = {value} should be a finite number"):
        load_recipe(None, [f"generate.{key}={value}"])


def test_a_stop_text_has_a_character():
    assert load_recipe(None, ['generate.stop=["a"]']).generate.stop == ["a"]
    with pytest.raises(RecipeError, match=r"generate\.stop\.1 = \"\" .* at least 1 character"):
        load_recipe(None, ['generate.stop=["a", ""]'])
