"""Inputs on a real S3 server (moto's, on this machine) and a web server: the same documents as from disk."""

import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.cleaning.clean_inputs import folder_bytes
from tests.cleaning.test_clean_run import mixed_inputs, run
from tinyllama.errors import InputError
from tinyllama.phase_runner import input_digest
from tinyllama.sources import remote_inputs


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The endpoint of a server with an empty bucket `texts`."""
    server_module = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    remote_inputs._s3.cache_clear()
    boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="texts")
    yield f"http://{host}:{port}"
    server.stop()
    remote_inputs._s3.cache_clear()


def test_s3_gives_what_the_disk_gives(tmp_path: Path, s3: str) -> None:
    import boto3

    files = mixed_inputs(tmp_path / "in")
    client = boto3.client("s3", region_name="us-east-1")
    for file in files:
        client.upload_file(str(file), "texts", f"corpus/{file.name}")
    client.put_object(Bucket="texts", Key="corpus/readme.txt", Body=b"no input")
    run(tmp_path / "disk", [tmp_path / "in"])
    run(tmp_path / "s3", [Path("s3://texts/corpus")])
    assert folder_bytes(tmp_path / "disk") == folder_bytes(tmp_path / "s3")
    before = input_digest(Path("s3://texts/corpus"))
    client.put_object(Bucket="texts", Key="corpus/more.jsonl", Body=b'{"text": "more"}')
    assert input_digest(Path("s3://texts/corpus")) != before
    with pytest.raises(InputError, match="s3://texts/nothing: no file there that ends in"):
        run(tmp_path / "none", [Path("s3://texts/nothing")])


class BreaksOff(http.server.SimpleHTTPRequestHandler):
    """A file server whose first answer to each GET ends in the middle, and that can go on from there."""

    seen: set[str]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        data = (Path(self.directory) / self.path.lstrip("/")).read_bytes()
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        first = self.path not in self.seen
        self.seen.add(self.path)
        self.wfile.write(data[start : len(data) // 2 if first else len(data)])


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    handler = type("Handler", (BreaksOff,), {"seen": set()})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(tmp_path / "in")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_web_gives_what_the_disk_gives_though_it_breaks_off(tmp_path: Path, web: str) -> None:
    files = mixed_inputs(tmp_path / "in")
    run(tmp_path / "disk", [tmp_path / "in"])
    run(tmp_path / "web", [Path(f"{web}/{file.name}") for file in files])
    assert folder_bytes(tmp_path / "disk") == folder_bytes(tmp_path / "web")
    assert not list((tmp_path / "web").rglob(".remote*"))
    with pytest.raises(InputError, match=r"/none\.jsonl: cannot be reached \(HTTP Error 404"):
        run(tmp_path / "none", [Path(f"{web}/none.jsonl")])
    with pytest.raises(InputError, match="no file there that ends in"):
        run(tmp_path / "none", [Path(f"{web}/")])


def test_addresses_survive_being_paths() -> None:
    for url in ("s3://bucket/a/b.jsonl", "https://a.org/x.warc.gz", "http://127.0.0.1:80/x"):
        assert remote_inputs.remote_url(Path(url)) == url
    assert remote_inputs.remote_url(Path("data/s3/x.jsonl")) is None


class NeverWhole(http.server.BaseHTTPRequestHandler):
    """Answers in chunks, the length unknown, and hangs up in the first one."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"ff\r\n{")
        self.close_connection = True


def test_what_never_comes_whole_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_inputs, "_TRIES", 2)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), NeverWhole)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/texts.jsonl"
    try:
        with (
            pytest.raises(InputError, match=r"texts\.jsonl: cannot be fetched \(IncompleteRead"),
            remote_inputs.local_copy(remote_inputs.find_remote(url, (".jsonl",))[0], tmp_path),
        ):
            pass
        assert not list(tmp_path.iterdir())
    finally:
        server.shutdown()
        server.server_close()


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match=r"http://127\.0\.0\.1:port/a\.jsonl: cannot be reached"):
        remote_inputs.find_remote("http://127.0.0.1:port/a.jsonl", (".jsonl",))
