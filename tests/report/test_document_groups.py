"""What cleaning kept of each domain and language, as the page shows it."""

import re
from pathlib import Path
from typing import Any

from tests.report.run_folder import section, whole, write
from tinyllama.report.run_sections import MAX_GROUP_ROWS


def rows_of(page: str) -> list[list[str]]:
    cells = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", page)]
    return [[re.sub("<.*?>", "", cell) for cell in row] for row in cells if row]


def tables(run_dir: Path, funnel: dict[str, Any]) -> str:
    write(run_dir, "clean/funnel.json", funnel)
    return section(run_dir, "data")


def test_documents_in_and_out_by_value(tmp_path: Path):
    whole(tmp_path)
    page = section(tmp_path, "data")
    assert re.findall("<summary>(.*?)</summary>", page) == ["Domains", "Languages"]
    assert [row[:4] for row in rows_of(page)] == [
        ["docs.example.org", "29", "17", "58.6%"],
        ["en", "19", "13", "68.4%"],
        ["fr", "10", "4", "40.0%"],
    ]


def test_long_tables_say_how_many_more(tmp_path: Path):
    page = tables(
        tmp_path, {"licence": {f"l{n}": {"in": 1, "out": 0, "bytes_out": 0} for n in range(MAX_GROUP_ROWS + 3)}}
    )
    assert len(rows_of(page)) == MAX_GROUP_ROWS
    assert "and 3 more" in page


def test_hostile_and_damaged_rows(tmp_path: Path):
    counted = {"in": 2, "out": 1, "bytes_out": 5}
    page = tables(tmp_path, {"domain": {"<script>x": counted, "a": 3, "b": {"in": "many"}, "c": {}}, "language": [1]})
    assert "<script" not in page
    assert len(rows_of(page)) == 1


def test_nothing_without_groups(tmp_path: Path):
    assert tables(tmp_path, {"steps": []}) == ""


def test_a_group_of_twenty_values_is_whole_and_of_more_is_cut(tmp_path: Path):
    for count, rows in ((20, 20), (21, 20)):
        page = tables(tmp_path, {"licence": {f"l{n}": {"in": 1, "out": 1, "bytes_out": 0} for n in range(count)}})
        assert len(rows_of(page)) == rows
        assert re.findall("and (.*) more in clean/funnel.json", page) == (["1"] if count == 21 else [])
        assert "<summary>Licences</summary>" in page


def test_a_row_by_hand(tmp_path: Path):
    group = {"x" * 81: {"in": 0, "out": 0, "bytes_out": 0}, "de": {"in": 1600, "out": 1200, "bytes_out": 1_500_000}}
    page = tables(tmp_path, {"language": group})
    assert rows_of(page) == [
        ["x" * 80 + " …", "0", "0", "", "0 bytes"],
        ["de", "1,600", "1,200", "75.0%", "1.5 MB"],
    ]
    assert re.findall('<th scope="col">(.*?)</th>', page) == ["language", "documents in", "out", "kept", "text out"]
