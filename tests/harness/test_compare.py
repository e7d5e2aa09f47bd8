"""Two results folders made by hand, example by example."""

import math
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from tests.evaluation.result_folders import write_scores
from tinyllama.errors import InputError
from tinyllama.harness.compare import compare, table, verdict
from tinyllama.harness.task_scores import Difference

ptf: Any = stats.t.ppf
KINDS = {"opt": "optional_mean", "acc": "mean", "perplexity": "perplexity"}


def row(acc: int, logprob: float, opt: int | None = None) -> dict[str, Any]:
    return {"acc": acc, "perplexity": logprob, "opt": opt}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    a, b = tmp_path / "a", tmp_path / "b"
    metrics = {"opt": 0.0, "acc": 0.25, "perplexity": 8.0}
    rows_a = [
        ("h1", row(0, -1.0, 1)),
        ("h2", row(0, -2.0)),
        ("h3", row(1, -3.0)),
        ("h4", row(0, -2.0)),
        ("x", row(1, -9.0)),
    ]
    rows_b = [
        ("y", row(0, -9.0)),
        ("h3", row(1, -3.5)),
        ("h4", row(1, -2.5)),
        ("h1", row(1, -1.5)),
        ("h2", row(1, -2.5)),
    ]
    write_scores(a, "piqa", KINDS, metrics, examples=rows_a)
    write_scores(b, "piqa", KINDS, metrics | {"acc": 0.5, "perplexity": 9.0}, examples=rows_b)
    write_scores(a, "cola", {"mcc": "mcc"}, {"mcc": 0.0}, examples=[])
    write_scores(b, "boolq", {"acc": "mean"}, {"acc": 0.0}, examples=[])
    write_scores(b, "arc_easy", {"acc": "mean"}, {"acc": 0.0}, examples=[])
    return a, b


def test_examples_are_paired_by_their_text_and_not_by_their_place(folders: tuple[Path, Path]):
    found = compare(*folders)
    assert (found["a"], found["b"]) == tuple(map(str, folders))
    assert list(found["tasks"]) == ["piqa"]
    assert found["only_in"] == {str(folders[0]): ["cola"], str(folders[1]): ["arc_easy", "boolq"]}
    assert list(found["tasks"]["piqa"]) == ["acc", "perplexity"]  # opt concerns no example that both have
    acc = found["tasks"]["piqa"]["acc"]
    reach = ptf(0.975, 3) * 0.5 / 2  # gaps 1, 1, 0, 1
    assert {key: acc[key] for key in ("a", "b", "difference", "n", "wins", "losses", "sign_p", "verdict")} == {
        "a": 0.25, "b": 0.5, "difference": 0.75, "n": 4, "wins": 3, "losses": 0, "sign_p": pytest.approx(0.25),
        "verdict": "no difference shown",
    }  # fmt: skip
    assert (acc["low"], acc["high"]) == (pytest.approx(0.75 - reach), pytest.approx(0.75 + reach))
    perplexity = found["tasks"]["piqa"]["perplexity"]  # every example half a nat less likely
    assert perplexity["difference"] == pytest.approx(math.exp(2.5) - math.exp(2))
    assert 0 < perplexity["low"] < perplexity["difference"] < perplexity["high"]
    assert (perplexity["verdict"], perplexity["n"]) == ("A is better", 4)
    assert "wins" not in perplexity


def test_the_table_says_the_numbers(folders: tuple[Path, Path]):
    found = compare(*folders)
    lines = table(found).splitlines()
    assert lines[:2] == [f"A: {folders[0]}", f"B: {folders[1]}"]
    acc = next(line for line in lines if " acc " in line)
    words = " ".join(acc.split())
    assert words == "piqa acc 0.25 0.5 +0.7500 -0.0456 to +1.5456 4 no difference shown (3 won, 0 lost, p 0.25)"
    perplexity = next(line for line in lines if " perplexity " in line)
    assert perplexity.split()[:5] == ["piqa", "perplexity", "8", "9", "+4.7934"]
    assert perplexity.endswith("A is better")
    assert "2 intervals of 95%" in table(found)
    assert lines[-2:] == [f"only in {folders[0]}: cola", f"only in {folders[1]}: arc_easy, boolq"]
    nothing = {**found, "only_in": {"x": [], "y": ["z"]}}
    assert "only in x" not in table(nothing)


def test_groups_are_what_differs(tmp_path: Path):
    for name, right in (("a", (1, 1, 0, 0)), ("b", (1, 1, 1, 1))):
        examples = [(f"h{n}", {"acc": value}, f"g{n // 2}") for n, value in enumerate(right)]
        write_scores(tmp_path / name, "axg", {"acc": "mean"}, {"acc": 0.5}, examples=examples)
    acc = compare(tmp_path / "a", tmp_path / "b")["tasks"]["axg"]["acc"]
    assert (acc["n"], acc["wins"], acc["losses"]) == (4, 1, 0)
    error = math.sqrt(2 / 1 * (1 + 1)) / 4  # residuals -1/2 twice, 1/2 twice: sums -1 and 1
    assert acc["high"] - 0.5 == pytest.approx(ptf(0.975, 1) * error)


@pytest.mark.parametrize(
    ("value", "higher_is_better", "wanted"),
    [(0.5, True, "B"), (0.5, False, "A"), (-0.5, True, "A"), (-0.5, False, "B")],
)
def test_who_is_better(value: float, higher_is_better: bool, wanted: str):
    shown = Difference(value, value - 0.1, value + 0.1, 9)
    assert verdict(shown, higher_is_better) == f"{wanted} is better"
    assert verdict(Difference(value, -0.6, 0.6, 9), higher_is_better) == "no difference shown"


def test_what_cannot_be_compared(tmp_path: Path):
    one, two, three = tmp_path / "1", tmp_path / "2", tmp_path / "3"
    acc: dict[str, Any] = {"kinds": {"acc": "mean"}, "metrics": {"acc": 0.0}}
    write_scores(one, "piqa", **acc, examples=[("h1", {"acc": 1}), ("h2", {"acc": 1})])
    write_scores(two, "piqa", **acc, examples=[("h1", {"acc": 1}), ("h3", {"acc": 1})])
    write_scores(three, "boolq", **acc, examples=[])
    with pytest.raises(InputError, match="1 examples in common; two are needed"):
        compare(one, two)
    with pytest.raises(InputError, match="no task in common; they have piqa and boolq"):
        compare(one, three)
    assert compare(one, one)["tasks"]["piqa"]["acc"]["n"] == 2
