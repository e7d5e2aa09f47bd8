"""Writes crawled pages as WARC/1.1 response records, one gzip member each, into files 00000.warc.gz, 00001.warc.gz ..."""

import os
from http.client import responses
from io import BytesIO
from pathlib import Path

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from tinyllama.errors import InputError

_CHANGED_HEADERS = frozenset(("content-encoding", "transfer-encoding", "content-length"))


class WarcFiles:
    """Appends records to the last WARC file of a folder; a new file is begun once one has `bytes_per_file`.

    `committed` has the valid length in bytes of each file of an earlier, perhaps killed, run: files are truncated to it, and
    files without an entry are removed. Raises InputError when a file is missing or shorter than that.
    """

    def __init__(self, folder: Path, committed: dict[str, int], bytes_per_file: int, software: str) -> None:
        self._folder = folder
        self._bytes_per_file = bytes_per_file
        self._software = software
        for path in sorted(folder.glob("*.warc.gz")):
            if path.name not in committed:
                path.unlink()
        for name, length in committed.items():
            _truncate(folder / name, length)
        self._next_number = len(committed)
        self._changed: dict[str, int] = {}
        last = max(committed, default="")
        if last and committed[last] < bytes_per_file:
            self._open(last)
        else:
            self._begin_file()

    def write_page(
        self, url: str, date: str, address: str, status: int, headers: list[tuple[str, str]], body: bytes
    ) -> str:
        """Append one response; returns its payload digest. `body` is decoded of any content encoding; `date` is ISO 8601."""
        if self._file.tell() >= self._bytes_per_file:
            self._close_file()
            self._begin_file()
        # As Common Crawl does: the stored payload is decoded, and headers about its coding get the prefix X-Crawl-.
        kept = [(f"X-Crawl-{name}" if name.lower() in _CHANGED_HEADERS else name, value) for name, value in headers]
        kept.append(("Content-Length", str(len(body))))
        http = StatusAndHeaders(f"{status} {responses.get(status, '')}".strip(), kept, protocol="HTTP/1.1")
        extra = {"WARC-Date": date} | ({"WARC-IP-Address": address} if address else {})
        record = self._writer.create_warc_record(
            url, "response", payload=BytesIO(body), length=len(body), http_headers=http, warc_headers_dict=extra
        )
        self._writer.write_record(record)
        self._changed[self._name] = self._file.tell()
        return record.rec_headers.get_header("WARC-Payload-Digest")

    def sync(self) -> dict[str, int]:
        """Bring everything to disk; returns the length in bytes of each file written since the last call."""
        self._file.flush()
        os.fsync(self._file.fileno())
        changed, self._changed = self._changed, {}
        return changed

    def close(self) -> None:
        """Close the current file."""
        self._close_file()

    def _begin_file(self) -> None:
        self._open(f"{self._next_number:05d}.warc.gz")
        self._next_number += 1
        facts = {"software": self._software, "format": "WARC File Format 1.1", "robots": "obey"}
        self._writer.write_record(self._writer.create_warcinfo_record(self._name, facts))
        self._changed[self._name] = self._file.tell()

    def _open(self, name: str) -> None:
        self._name = name
        self._file = (self._folder / name).open("ab")
        self._writer = WARCWriter(self._file, gzip=True, warc_version="WARC/1.1")

    def _close_file(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def _truncate(path: Path, length: int) -> None:
    found = path.stat().st_size if path.exists() else -1
    if found < length:
        raise InputError(
            f"{path}: {max(found, 0)} bytes, but the frontier records {length}; remove the folder and crawl again"
        )
    if found > length:
        os.truncate(path, length)
