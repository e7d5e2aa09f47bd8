"""A real corpus of many languages: the HTML of Debian's documentation packages, cleaned, with duplicates injected.

    .venv/bin/python benchmarks/debian_docs.py --out FOLDER [--packages NAME ...] [--injected 300] [key=value ...]

On a Debian machine, with its package mirror in reach: `apt-get download` and `dpkg -x` of the packages, then one WARC file
of all HTML pages. Of some long pages there are two copies more, in which 1% and 3% of the words were changed: what share of
them lands in a cluster with its original is the recall. Prints the funnel's tables as JSON.
"""

import argparse
import io
import json
import random
import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow.parquet as pq
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

PACKAGES = (
    "python3.11-doc", "postgresql-doc-15", "debian-handbook", "apache2-doc", "git-doc", "gnome-user-docs",
    "developers-reference", "lilypond-doc-html", "debian-reference-common", "debian-reference-en", "debian-reference-de",
    "debian-reference-fr", "debian-reference-es", "debian-reference-it", "debian-reference-ja", "debian-reference-pt",
    "debian-reference-zh-cn", "libreoffice-help-cs", "libreoffice-help-da", "libreoffice-help-el", "libreoffice-help-fi",
    "libreoffice-help-hu", "libreoffice-help-ko", "libreoffice-help-pl",
)  # fmt: skip
_HTML = re.compile(r".*\.x?html?(\.[a-z]{2,3}(-[a-z]{2})?)?(\.utf8)?$", re.IGNORECASE)
_WORD = re.compile(r">[^<>]*<")
SHARES = (0.01, 0.03)


def pages_of(packages: list[str], folder: Path) -> list[tuple[str, bytes]]:
    """(address, HTML) of all pages of the packages, each once."""
    found: dict[str, bytes] = {}
    for package in packages:
        unpacked = folder / package
        if not unpacked.exists():
            subprocess.run(["apt-get", "download", "-q", package], cwd=folder, check=True, stdout=subprocess.DEVNULL)
            archive = next(folder.glob(f"{package}_*.deb"))
            subprocess.run(["dpkg", "-x", str(archive), str(unpacked)], check=True)
        for path in sorted(unpacked.rglob("*")):
            if _HTML.match(path.name) and path.is_file() and not path.is_symlink():
                found[f"http://{package}.debian.example/{path.relative_to(unpacked)}"] = path.read_bytes()
    return list(found.items())


def changed(html: bytes, share: float, chance: random.Random) -> bytes:
    """The page with so large a share of the words of its text replaced."""

    def other_words(match: re.Match[str]) -> str:
        words = re.split(r"(\s+)", match[0][1:-1])
        swapped = [f"zz{chance.randrange(10**6)}" if w.isalpha() and chance.random() < share else w for w in words]
        return f">{''.join(swapped)}<"

    return _WORD.sub(other_words, html.decode("utf-8", "replace")).encode()


def write_pages(pages: list[tuple[str, bytes]], path: Path, injected: int) -> int:
    """All pages, and the changed ones of some; returns how many bytes of HTML."""
    chance = random.Random(7)
    long_ones = [page for page in pages if 20_000 < len(page[1]) < 200_000]
    chosen = chance.sample(long_ones, min(injected, len(long_ones)))
    more = [(f"{url}?changed={share}", changed(html, share, chance)) for url, html in chosen for share in SHARES]
    with path.open("wb") as file:
        writer = WARCWriter(file, gzip=True)
        for url, html in [*pages, *more]:
            headers = StatusAndHeaders("200 OK", [("Content-Type", "text/html")], protocol="HTTP/1.1")
            record = writer.create_warc_record(url, "response", payload=io.BytesIO(html), http_headers=headers)
            writer.write_record(record)
    return sum(len(html) for _, html in pages)


def recall(clean: Path) -> dict[str, dict[str, int]]:
    """Of injected pages that stayed beside their originals: how many are in one cluster with them."""
    cluster_of = {}
    for path in [*(clean / "train").glob("*.parquet"), *(clean / "validation").glob("*.parquet")]:
        rows = pq.read_table(path, columns=["source", "cluster"]).to_pylist()
        cluster_of |= {row["source"]: row["cluster"] for row in rows}
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for url, cluster in cluster_of.items():
        original, _, share = url.partition("?changed=")
        if share and original in cluster_of:
            found[share]["pairs"] += 1
            found[share]["found"] += bool(cluster) and cluster == cluster_of[original]
    return {share: dict(counts) for share, counts in sorted(found.items())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--packages", nargs="+", default=list(PACKAGES))
    parser.add_argument("--injected", type=int, default=300)
    given, overrides = parser.parse_known_args()
    (given.out / "packages").mkdir(parents=True, exist_ok=True)
    pages = pages_of(given.packages, given.out / "packages")
    size = write_pages(pages, given.out / "pages.warc.gz", given.injected)
    command = [
        sys.executable, "-m", "tinyllama", "clean", str(given.out / "pages.warc.gz"), "--out", str(given.out / "clean"),
        "--json", "clean.languages=[]", "clean.keep_near_duplicates=true", "clean.exact_duplicates=false",
        "clean.duplicate_paragraphs=false", *overrides,
    ]  # fmt: skip
    summary = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    funnel = json.loads((given.out / "clean" / "funnel.json").read_text())
    facts = {"pages": len(pages), "html_bytes": size, "recall": recall(given.out / "clean"), **summary}
    print(
        json.dumps({**facts, "language": funnel["language"], "domain": funnel["domain"]}, indent=1, ensure_ascii=False)
    )


if __name__ == "__main__":
    main()
