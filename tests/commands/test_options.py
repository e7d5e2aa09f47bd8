"""How words of a command line are read, and how a result is printed: for people, as one JSON object, by one rank."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tinyllama.commands.options import (
    fertility_table,
    json_lines,
    plain_value,
    print_json,
    show,
    show_texts,
    split_overrides,
    split_paths,
)
from tinyllama.errors import InputError, RecipeError


def test_overrides_are_told_from_names_by_their_first_equals_sign():
    words = ["a.jsonl", "clean.min_words=3", "http://a/?b=c", "x/y=z", 'sources.seeds=["http://d/?e=f"]', "="]
    names, overrides = split_overrides(words)
    assert names == ["a.jsonl", "http://a/?b=c", "x/y=z"]
    assert overrides == ["clean.min_words=3", 'sources.seeds=["http://d/?e=f"]', "="]


def test_inputs_exist_or_are_addresses(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b.txt").touch()
    remote = ["s3://bucket/a", "http://host/b.jsonl", "https://host/c"]
    paths, overrides = split_paths([str(tmp_path / "a"), *remote, "clean.min_words=1", str(tmp_path / "b.txt")])
    assert paths == (tmp_path / "a", *map(Path, remote), tmp_path / "b.txt")
    assert overrides == ["clean.min_words=1"]
    for wrong in (tmp_path / "none", "ftp://host/a", "bucket/s3:/a"):
        with pytest.raises(InputError) as caught:
            split_paths([str(tmp_path / "a"), str(wrong)])
        assert str(caught.value) == f"{Path(wrong)}: no such file or folder"
    with pytest.raises(RecipeError, match="INPUT: give at least one file or folder"):
        split_paths(["clean.min_words=1"])


def lines(monkeypatch: pytest.MonkeyPatch, content: bytes, *arguments: Any) -> list[Any]:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    return json_lines(*arguments)


def test_each_line_of_stdin_is_one_value(monkeypatch: pytest.MonkeyPatch):
    assert lines(monkeypatch, b'"a"\n"\\u00e9"\n""\n', str, "a text") == ["a", "é", ""]
    assert lines(monkeypatch, b"[1]\n[]", list, "a list") == [[1], []]
    assert lines(monkeypatch, b"", str, "a text") == []
    for content, number in ((b'"a"\n{}\n', 2), (b"[1]\n", 1), (b'"a"\n"b"\n\xff\n', 3), (b'"a"\n\n"b"\n', 2)):
        with pytest.raises(InputError) as caught:
            lines(monkeypatch, content, str, "a text")
        assert str(caught.value) == f"stdin, line {number}: not a text"


def test_a_line_may_have_as_many_bytes_as_the_limit_and_no_more(monkeypatch: pytest.MonkeyPatch):
    line = b'"' + b"x" * 1020 + b'"\n'  # 1,023 bytes
    assert lines(monkeypatch, line, str, "a text", 1023) == ["x" * 1020]
    with pytest.raises(InputError) as caught:
        lines(monkeypatch, b'"a"\n' + line, str, "a text", 1022)
    assert str(caught.value) == "stdin, line 2: 1,023 bytes, the most is 1,022; split the text"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1234567, "1,234,567"),
        (12345.678, "1.235e+04"),
        (0.123456, "0.1235"),
        (True, "True"),
        (None, "None"),
        ("a", "a"),
        ([1000, 2], "[1000, 2]"),
        ({"a": 1000, "b": {"c": 0.5, "d": {"e": 1}}}, "a = 1,000, b = (c = 0.5, d = (e = 1))"),
        ({}, ""),
    ],
)
def test_values_as_people_read_them(value: Any, words: str):
    assert plain_value(value) == words


RESULT = {"n": 1000, "texts": ["a", "é"], "ids": [[1, 2], []]}
SEQUENCES = {"sequences": [{"prompt": "P", "text": "q"}, {"prompt": "R", "text": "s"}]}


def test_people_read_a_line_for_each_value_or_for_each_of_a_list(capsys: pytest.CaptureFixture[str]):
    show({"n": 1000, "share": 0.25}, as_json=False)
    assert capsys.readouterr().out == "n: 1,000\nshare: 0.25\n"
    show(RESULT, False, plain="texts")
    assert capsys.readouterr().out == "a\né\n"
    show(RESULT, False, plain="ids")
    assert capsys.readouterr().out == "[1, 2]\n[]\n"
    show_texts(SEQUENCES, as_json=False)
    assert capsys.readouterr().out == "--- 1\nPq\n--- 2\nRs\n"


@pytest.mark.parametrize("plain", [None, "texts"])
def test_json_is_one_object_on_one_line_and_nothing_else(capsys: pytest.CaptureFixture[str], plain: str | None):
    show(RESULT, True, plain)
    assert capsys.readouterr().out == json.dumps(RESULT, ensure_ascii=False) + "\n"
    show_texts(SEQUENCES, as_json=True)
    assert capsys.readouterr().out == json.dumps(SEQUENCES) + "\n"


@pytest.mark.parametrize("rank", ["1", "7"])
def test_ranks_after_the_first_print_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rank: str
):
    monkeypatch.setenv("RANK", rank)
    print_json(RESULT)
    show(RESULT, as_json=True)
    show(RESULT, as_json=False)
    show(RESULT, False, plain="texts")
    show_texts(SEQUENCES, as_json=True)
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("RANK", "0")
    print_json(RESULT)
    assert json.loads(capsys.readouterr().out) == RESULT


def test_the_table_of_kinds_has_each_figure_in_its_column():
    row = {
        "documents": 1234, "text_bytes": 5_678_901, "bytes_per_token": 3.25, "byte_fallback_share": 0.125,
        "byte_fallback_share_without_newlines": 0.03125,
    }  # fmt: skip
    head, *rows = fertility_table({"web": row, "abcdefghijklmnop": row, "é\n": row}).splitlines()
    assert head.split("  ")[0] == "kind"
    assert [len(line) for line in rows] == [len(head)] * 3
    figures = ["1,234", "5,678,901", "3.250", "12.500%", "3.125%"]
    assert rows[0].split() == ["web", *figures]
    assert rows[1].startswith("abcdefghijk  ")
    assert rows[2].split() == [ascii("é\n"), *figures]
