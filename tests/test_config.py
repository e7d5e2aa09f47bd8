"""Settings: what enters a fingerprint, what is refused, how a difference is said; and seeds by purpose."""

import hashlib

import pytest
from pydantic import ValidationError

from tinyllama.config import Config, difference_lines, differences, setting
from tinyllama.errors import (
    InputError,
    LostRankError,
    MissingExtraError,
    RecipeError,
    RunStoppedError,
    TinyllamaError,
)
from tinyllama.seeds import derive_seed


class Toy(Config):
    a: int = setting(1, "a", ge=0, le=5)
    names: list[str] = setting(["x", "y"], "names")
    threads: int = setting(2, "threads", changes_result=False)
    every: int = setting(3, "every", changes_result=False)
    b: float = setting(0.5, "b", changes_result=True)


def test_only_values_that_change_the_result_are_in_a_fingerprint():
    assert Toy(a=4).result_values() == {"a": 4, "names": ["x", "y"], "b": 0.5}
    assert Toy.how_only_names() == {"threads", "every"}
    assert Toy.model_fields["a"].description == "a"
    assert Toy.model_fields["names"].description == "names"


@pytest.mark.parametrize(
    "values", [{"a": -1}, {"a": 6}, {"a": "1"}, {"a": 1.0}, {"unknown": 1}, {"b": "0.5"}, {"names": ("x",)}]
)
def test_settings_outside_their_limits_of_another_type_or_unknown_are_refused(values: dict):
    with pytest.raises(ValidationError):
        Toy(**values)


def test_a_default_is_held_to_the_limits_too():
    class Wrong(Config):
        a: int = setting(9, "a", le=5)

    with pytest.raises(ValidationError):
        Wrong()


def test_settings_never_change_and_share_no_list():
    first, second = Toy(), Toy()
    with pytest.raises(ValidationError):
        first.a = 2  # pyright: ignore[reportAttributeAccessIssue]
    first.names.append("z")
    assert second.names == ["x", "y"] == Toy().names
    assert (Toy(a=0).a, Toy(a=5).a) == (0, 5)


def test_a_list_setting_has_its_limits_and_its_kind():
    class Lists(Config):
        some: list[int] = setting([1], "some", changes_result=False, max_length=2)

    assert Lists.how_only_names() == {"some"}
    with pytest.raises(ValidationError):
        Lists(some=[1, 2, 3])


def test_differences_by_dotted_key():
    before = {"same": 1, "b": {"x": 1, "y": {"z": "q"}, "same": 0}, "gone": 2, "kind": {"a": 1}, "list": [1]}
    after = {"same": 1, "b": {"x": 2, "y": {"z": "r"}, "same": 0}, "new": 3, "kind": 4, "list": [2]}
    assert differences(before, after) == {
        "b.x": "1 -> 2",
        "b.y.z": "'q' -> 'r'",
        "gone": "2 -> None",
        "kind": "{'a': 1} -> 4",
        "list": "[1] -> [2]",
        "new": "None -> 3",
    }
    assert list(differences({"b": 1, "a": 1}, {})) == ["a", "b"]
    assert differences(before, before) == {}
    assert (
        difference_lines({"a.b": "1 -> 2", "its inputs changed": "", "c": "x"})
        == "a.b: 1 -> 2; its inputs changed; c: x"
    )


def test_a_seed_by_hand():
    digest = hashlib.sha256(b"7\0window order\x003\0blocks").digest()
    assert derive_seed(7, "window order", 3, "blocks") == int.from_bytes(digest[:8], "little") // 2
    seeds = {
        derive_seed(7),
        derive_seed(8),
        derive_seed(7, "a"),
        derive_seed(7, "a", "b"),
        derive_seed(7, "ab"),
        derive_seed(7, "b"),
    }
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_errors_and_their_exit_codes():
    for kind in (RecipeError, InputError, MissingExtraError):
        assert issubclass(kind, TinyllamaError)
        assert kind("words").exit_code == 2
        assert str(kind("words")) == "words"
    stopped = RunStoppedError("words", 75)
    assert (str(stopped), stopped.exit_code, isinstance(stopped, TinyllamaError)) == ("words", 75, True)
    lost = LostRankError("rank 3")
    assert isinstance(lost, RunStoppedError)
    assert (str(lost), lost.exit_code, lost.is_first) == ("rank 3", 69, True)
    later = LostRankError("rank 3", 70, False)
    assert (later.exit_code, later.is_first) == (70, False)
