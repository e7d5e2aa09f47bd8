"""The crawl's frontier: every address seen, its state, and the valid length of each WARC file, in one SQLite file.

The WARC files are synced first, then one transaction records the pages' states and the files' lengths. So after a kill,
bytes beyond a file's recorded length belong to pages that are still queued; they are removed when the crawl resumes.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyllama.errors import InputError

FRONTIER_FILE = "frontier.sqlite"
FORMAT_VERSION = 1
_PATIENCE_SECONDS = 10.0  # a killed crawl's process may need a moment to release the file
_TABLES = """
CREATE TABLE IF NOT EXISTS pages (
    number INTEGER PRIMARY KEY,  -- the order in which addresses were found, and are fetched
    url TEXT NOT NULL UNIQUE,
    redirects INTEGER NOT NULL,  -- how many redirects led here
    state TEXT NOT NULL,         -- queued, stored, left_out
    reason TEXT NOT NULL,        -- why it was left out
    digest TEXT NOT NULL,        -- of the stored payload, as in the WARC record
    bytes INTEGER NOT NULL       -- of the stored payload
);
CREATE INDEX IF NOT EXISTS queue ON pages (number) WHERE state = 'queued';
CREATE TABLE IF NOT EXISTS warc_files (name TEXT PRIMARY KEY, bytes INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class QueuedPage:
    """An address to fetch; `redirects` counts how many led to it."""

    number: int
    url: str
    redirects: int


class Frontier:
    """Opened by one process at a time. Nothing is kept until `commit`. Raises InputError when another holds it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FRONTIER_FILE
        self._database = sqlite3.connect(path, isolation_level=None, timeout=_PATIENCE_SECONDS)
        try:
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.executescript(_TABLES)
            self._database.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            self._database.close()
            raise InputError(f"{path}: {error}; does another crawl work in this folder?") from None
        except sqlite3.DatabaseError as error:
            self._database.close()
            raise InputError(f"{path}: not a frontier database ({error}); remove the folder") from None
        version = self.fact("format_version", FORMAT_VERSION)
        if version != FORMAT_VERSION:
            self.close()
            raise InputError(f"{path}: format version {version}, expected {FORMAT_VERSION}; remove the folder")
        self.set_fact("format_version", FORMAT_VERSION)
        self._last_taken = 0
        self.states: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()
        for state, reason, count in self._database.execute("SELECT state, reason, count(*) FROM pages GROUP BY 1, 2"):
            self.states[state] += count
            if state == "left_out":
                self.left_out[reason] += count

    def add(self, urls: Iterable[str], redirects: int = 0, reason: str = "") -> None:
        """Queue addresses not seen before, in this order; with a `reason` they are recorded as left out."""
        state = "left_out" if reason else "queued"
        for url in urls:
            added = self._database.execute(
                "INSERT OR IGNORE INTO pages (url, redirects, state, reason, digest, bytes) VALUES (?, ?, ?, ?, '', 0)",
                (url, redirects, state, reason),
            ).rowcount
            if added:
                self.states[state] += 1
                if reason:
                    self.left_out[reason] += 1

    def take(self, count: int) -> list[QueuedPage]:
        """The next `count` queued pages in order, each returned once per opened frontier."""
        rows = self._database.execute(
            "SELECT number, url, redirects FROM pages WHERE state = 'queued' AND number > ? ORDER BY number LIMIT ?",
            (self._last_taken, count),
        ).fetchall()
        if rows:
            self._last_taken = rows[-1][0]
        return [QueuedPage(*row) for row in rows]

    def mark_stored(self, number: int, digest: str, payload_bytes: int) -> None:
        """The page's record is written (not yet committed)."""
        self._mark(number, "stored", "", digest, payload_bytes)

    def mark_left_out(self, number: int, reason: str) -> None:
        """The page is not kept, for `reason`."""
        self._mark(number, "left_out", reason, "", 0)
        self.left_out[reason] += 1

    def _mark(self, number: int, state: str, reason: str, digest: str, payload_bytes: int) -> None:
        self._database.execute(
            "UPDATE pages SET state = ?, reason = ?, digest = ?, bytes = ? WHERE number = ?",
            (state, reason, digest, payload_bytes, number),
        )
        self.states["queued"] -= 1
        self.states[state] += 1

    def commit(self, warc_bytes: dict[str, int]) -> None:
        """Make everything since the last commit durable, with the synced length in bytes of each changed WARC file."""
        self._database.executemany("INSERT OR REPLACE INTO warc_files VALUES (?, ?)", warc_bytes.items())
        self._database.execute("COMMIT")
        self._database.execute("BEGIN IMMEDIATE")

    def warc_files(self) -> dict[str, int]:
        """Committed length in bytes of each WARC file, by name."""
        return dict(self._database.execute("SELECT name, bytes FROM warc_files ORDER BY name"))

    def fact(self, name: str, default: Any = None) -> Any:
        """A JSON value recorded about the crawl."""
        row = self._database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return json.loads(row[0]) if row else default

    def set_fact(self, name: str, value: Any) -> None:
        """Record a JSON value about the crawl."""
        self._database.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, json.dumps(value)))

    def stored_bytes(self) -> int:
        """Payload bytes of all stored pages."""
        return self._database.execute("SELECT coalesce(sum(bytes), 0) FROM pages").fetchone()[0]

    def outcomes(self) -> dict[str, tuple[str, str]]:
        """(state, reason) of every address."""
        rows = self._database.execute("SELECT url, state, reason FROM pages ORDER BY number")
        return {url: (state, reason) for url, state, reason in rows}

    def close(self) -> None:
        """Close without committing."""
        self._database.close()
