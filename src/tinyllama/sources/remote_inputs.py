"""Input files on S3 (`s3://bucket/key`, or a prefix) and on the web (`https://...`): finds and downloads them.

A file is copied to disk, read and removed. An interrupted download is resumed, so only whole files are read. S3 takes its
credentials, region and endpoint from the usual variables (`AWS_ACCESS_KEY_ID`, `AWS_REGION`, `AWS_ENDPOINT_URL`) or files;
`AWS_NO_SIGN_REQUEST=true` is for public buckets. The crawler's guard against private addresses does not apply.
"""

import os
import re
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from http.client import HTTPException
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pyarrow import fs

from tinyllama.errors import InputError
from tinyllama.sources.read_inputs import SUFFIXES

_CHUNK_BYTES = 1 << 20
_TRIES, _TIMEOUT_SECONDS = 5, 60.0


@dataclass(frozen=True)
class RemoteFile:
    """One remote file: its URL, its size (-1: unknown), and a version (ETag or time) that changes with it."""

    url: str
    size: int
    version: str

    @property
    def name(self) -> str:
        """The last component of its path."""
        return unquote(urlsplit(self.url).path if self.url.startswith("http") else self.url).rpartition("/")[2]


def remote_url(path: Path) -> str | None:
    """The URL from which `path` was made (a Path folds two slashes into one); None for a path on disk."""
    match = re.fullmatch(r"(s3|https?):/+(.+)", str(path))
    return f"{match[1]}://{match[2]}" if match else None


def remote_versions(path: Path) -> list[list[object]]:
    """What identifies the remote files that `path` names: URL, size and version of each."""
    return [[file.url, file.size, file.version] for file in find_remote(remote_url(path) or str(path), SUFFIXES)]


def find_remote(url: str, suffixes: tuple[str, ...]) -> list[RemoteFile]:
    """The files that `url` names: itself, or on S3 all below it that end in one of `suffixes`, by name.

    Raises InputError when there is none.
    """
    found = _on_s3(url) if url.startswith("s3://") else [_on_the_web(url)]
    fitting = [file for file in found if file.name.endswith(suffixes) and not file.name.startswith(".")]
    if not fitting:
        raise InputError(f"{url}: no file there that ends in {', '.join(suffixes)}")
    return sorted(fitting, key=lambda file: file.url)


@contextmanager
def local_copy(file: RemoteFile, folder: Path) -> Iterator[Path]:
    """A copy of the file below `folder`, under its own name, for the duration of the context.

    Raises InputError when it cannot be fetched whole.
    """
    temporary = Path(tempfile.mkdtemp(dir=folder, prefix=".remote."))
    try:
        path = temporary / file.name
        for number in range(_TRIES):
            try:
                _fetch(file, path)
                break
            except (OSError, HTTPException) as error:  # of the network and of S3; an answer that breaks off
                if number == _TRIES - 1 or (isinstance(error, urllib.error.HTTPError) and error.code < 500):
                    raise InputError(f"{file.url}: cannot be fetched ({_one_line(error)})") from None
                time.sleep(0.2 * 2**number)
        yield path
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fetch(file: RemoteFile, path: Path) -> None:
    """Append to `path` the bytes that it does not have yet."""
    there = path.stat().st_size if path.exists() else 0
    if file.url.startswith("s3://"):
        with _s3().open_input_file(file.url.removeprefix("s3://")) as source, path.open("ab") as target:
            source.seek(there)
            shutil.copyfileobj(source, target, _CHUNK_BYTES)
    else:
        request = urllib.request.Request(file.url, headers={"Range": f"bytes={there}-"} if there else {})
        with (
            urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as source,
            path.open("ab" if source.status == 206 else "wb") as target,
        ):
            shutil.copyfileobj(source, target, _CHUNK_BYTES)
    if file.size >= 0 and path.stat().st_size != file.size:
        raise OSError(f"{path.stat().st_size:,} of {file.size:,} bytes came")


def _on_s3(url: str) -> list[RemoteFile]:
    key = url.removeprefix("s3://").rstrip("/")
    try:
        info = _s3().get_file_info(key)
        if info.type == fs.FileType.Directory:
            found = _s3().get_file_info(fs.FileSelector(key, recursive=True))
        else:
            found = [info]
    except OSError as error:
        raise InputError(f"{url}: cannot be listed ({_one_line(error)})") from None
    files = [info for info in found if info.type == fs.FileType.File]
    return [RemoteFile(f"s3://{info.path}", info.size, str(info.mtime_ns)) for info in files]


def _on_the_web(url: str) -> RemoteFile:
    try:
        request = urllib.request.Request(url, method="HEAD")
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
            headers = answer.headers
    except (OSError, HTTPException, ValueError) as error:
        raise InputError(f"{url}: cannot be reached ({_one_line(error)})") from None
    length = headers.get("Content-Length", "")
    version = headers.get("ETag") or headers.get("Last-Modified") or ""
    return RemoteFile(url, int(length) if length.isdigit() else -1, version)


@cache
def _s3() -> fs.S3FileSystem:
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
    parts = urlsplit(endpoint)
    return fs.S3FileSystem(
        anonymous=os.environ.get("AWS_NO_SIGN_REQUEST", "").lower() in ("1", "true", "yes"),
        region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or None,
        endpoint_override=parts.netloc or None,
        scheme=parts.scheme or None,
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
