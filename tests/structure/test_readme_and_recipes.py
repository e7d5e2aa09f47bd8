"""What the README and the packaged recipes promise is there."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tinyllama.recipe import Recipe, load_recipe, packaged_recipes, to_toml

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "tinyllama"
README = (ROOT / "README.md").read_text()


def part_fields(section: str) -> dict[str, Any]:
    config: Any = Recipe.model_fields[section].annotation
    return config.model_fields


def folder_map() -> set[str]:
    """The folders in the README's map of the code."""
    block = re.search(r"```text\nsrc/tinyllama/\n(.*?)```", README, re.S)
    assert block, "README has no map of the code"
    return set(re.findall(r"^  (\w+)/ ", block[1], re.M))


def test_folder_map_is_true():
    assert folder_map() == {path.name for path in SOURCE.iterdir() if path.is_dir() and not path.name.startswith("__")}


def test_linked_files_exist():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("name", packaged_recipes())
def test_every_recipe_loads_and_round_trips(name: str):
    recipe = load_recipe(name)
    assert Recipe.model_validate(tomllib.loads(to_toml(recipe))) == recipe


@pytest.mark.parametrize("name", packaged_recipes())
def test_recipes_hold_only_what_differs_from_the_defaults(name: str):
    values = tomllib.loads((SOURCE / "recipes" / f"{name}.toml").read_text())
    for section, keys in values.items():
        known = part_fields(section)
        assert keys.keys() <= known.keys()


def test_every_field_has_a_sentence_and_a_default():
    for section in Recipe.model_fields:
        for key, inner in part_fields(section).items():
            assert inner.description, f"{section}.{key}"
            assert not inner.is_required(), f"{section}.{key}"


def test_commands_in_the_readme_exist():
    from typer.main import get_command

    from tinyllama.commands.app import app

    command: Any = get_command(app)
    known = command.commands
    words = [
        word
        for block in re.findall(r"```sh\n(.*?)```", README, re.S)
        for word in re.findall(r"^tinyllama ([\w-]+)", block, re.M)
    ]
    assert words
    assert set(words) <= set(known)


def test_each_long_drill_is_in_one_part_of_the_full_tier():
    lines = (ROOT / "Makefile").read_text().replace("\\\n", "")
    parts = re.findall(r"^FULL_\w+ := (.*)$", lines, re.M)
    named = [ROOT / word for line in parts for word in line.split()]
    marked = re.compile(r"^(@|pytestmark = )pytest\.mark\.full|marks=pytest\.mark\.full", re.M)
    drills = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if marked.search(path.read_text())]
    assert len(drills) > 10
    for path in drills:
        if path != Path(__file__):
            assert sum(path.is_relative_to(other) for other in named) == 1, path
