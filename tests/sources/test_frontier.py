import sqlite3
from pathlib import Path

import pytest

from tinyllama.errors import InputError
from tinyllama.sources.frontier import FRONTIER_FILE, Frontier


def test_addresses_come_once_and_in_order(tmp_path: Path):
    frontier = Frontier(tmp_path)
    frontier.add(["http://b/", "http://a/", "http://b/"])
    frontier.add(["http://c/"], reason="domain")
    assert [page.url for page in frontier.take(1)] == ["http://b/"]
    assert [page.url for page in frontier.take(5)] == ["http://a/"]
    assert frontier.take(5) == []
    assert frontier.left_out == {"domain": 1}


def test_only_what_was_committed_is_there_again(tmp_path: Path):
    frontier = Frontier(tmp_path)
    frontier.add(["http://a/", "http://b/"])
    frontier.take(2)
    frontier.mark_stored(1, "sha1:X", 7)
    frontier.commit({"00000.warc.gz": 120})
    frontier.mark_left_out(2, "too_short")
    frontier.add(["http://late/"])
    frontier.close()

    again = Frontier(tmp_path)
    assert again.outcomes() == {"http://a/": ("stored", ""), "http://b/": ("queued", "")}
    assert again.warc_files() == {"00000.warc.gz": 120}
    assert again.stored_bytes() == 7
    assert [page.url for page in again.take(9)] == ["http://b/"]


def test_a_second_crawl_in_the_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tinyllama.sources.frontier._PATIENCE_SECONDS", 0.05)
    frontier = Frontier(tmp_path)
    with pytest.raises(InputError, match="does another crawl work in this folder"):
        Frontier(tmp_path)
    frontier.close()


def test_a_damaged_database_is_an_error_in_one_line(tmp_path: Path):
    (tmp_path / FRONTIER_FILE).write_bytes(b"no database at all" * 100)
    with pytest.raises(InputError, match=r"^[^\n]*not a frontier database[^\n]*$"):
        Frontier(tmp_path)


def test_another_format_version_is_refused(tmp_path: Path):
    frontier = Frontier(tmp_path)
    frontier.set_fact("format_version", 99)
    frontier.commit({})
    frontier.close()
    with pytest.raises(InputError, match="format version 99"):
        Frontier(tmp_path)
    assert sqlite3.connect(tmp_path / FRONTIER_FILE).execute("SELECT count(*) FROM pages").fetchone() == (0,)
