"""Words, lines, paragraphs, hashes, n-grams, bands and components on texts small enough to count by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cleaning.clean_inputs import prose
from tests.cleaning.cleaning_here import NoLimits, clean_rows, in_this_process
from tests.cleaning.test_corpus_steps import find
from tinyllama.cleaning import boilerplate_lines, quality, text_batch
from tinyllama.cleaning.boilerplate_lines import BoilerplateLines, boilerplate_line_keys, file_lines, range_lines
from tinyllama.cleaning.clean_config import CleanConfig
from tinyllama.cleaning.clean_documents import clean_documents
from tinyllama.cleaning.explain import explain_document
from tinyllama.cleaning.quality import repeated_ngram_chars
from tinyllama.cleaning.text_batch import TextBatch, batches_of
from tinyllama.dedup import components, find_duplicates, hash_records, minhash
from tinyllama.dedup.components import large_star, range_of, small_star, star_task
from tinyllama.dedup.minhash import band_hashes, candidate_probability
from tinyllama.errors import InputError
from tinyllama.hashing import BASE, MAX_BYTES, hash_of, hash_words, plain_words, powers_of, word_bounds

HERE: Any = NoLimits()


def shown(batch: TextBatch, pieces: Any) -> list[tuple[int, str]]:
    text = "".join(map(chr, batch.codes))
    spans = zip(pieces.owners.tolist(), pieces.starts.tolist(), pieces.ends.tolist(), strict=True)
    return [(owner, text[start:end]) for owner, start, end in spans]


def test_words_lines_and_paragraphs_by_hand() -> None:
    batch = TextBatch(["", " a bb\n \n c\nd \u3000", "a", "\n\n"])
    assert shown(batch, batch.words) == [(1, "a"), (1, "bb"), (1, "c"), (1, "d"), (2, "a")]
    assert shown(batch, batch.lines) == [(1, "a bb"), (1, "c"), (1, "d"), (2, "a")]
    assert shown(batch, batch.paragraphs) == [(1, "a bb"), (1, "c\nd"), (2, "a")]
    assert batch.words.chars.tolist() == [1, 2, 1, 1, 1]
    assert batch.words_per_line.tolist() == [2, 1, 1, 1]
    assert batch.count(batch.words.owners).tolist() == [0, 4, 1, 0]
    assert batch.total(batch.words.owners, batch.words.chars).tolist() == [0, 5, 1, 0]
    hashes = batch.words.hashes.tolist()
    assert hashes[0] == hashes[4]
    assert len(set(hashes)) == 4
    assert batch.owners_of(np.array([0, 1, 2, 3])).tolist() == [0, 0, 1, 1]
    empty = TextBatch(["", " "])
    assert [pieces.starts.size for pieces in (empty.words, empty.lines, empty.paragraphs)] == [0, 0, 0]
    assert empty.words_with_letters().size == 0


def test_a_hash_is_the_polynomial_of_the_code_points() -> None:
    batch = TextBatch(["x ab", "é"])
    expected = [(ord("a") + ord("b") * BASE) % 2**64, ord("é")]
    assert batch.words.hashes.tolist()[1:] == expected


def test_letters_and_pieces_that_came_before() -> None:
    batch = TextBatch(["1 a 2b é ! 中", "a a b", "b a"])
    assert batch.words_with_letters().tolist() == [False, True, True, True, False, True] + [True] * 5
    assert batch.is_repeated(batch.words).tolist() == [False] * 6 + [False, True, False] + [False, False]


def test_texts_are_taken_together_up_to_the_limit() -> None:
    assert [list(run) for run in batches_of(["aaa", "bb", "c", "dddd", "e"], 5)] == [
        ["aaa", "bb"],
        ["c", "dddd"],
        ["e"],
    ]
    assert [list(run) for run in batches_of(["aaaaaa", "b"], 5)] == [["aaaaaa"], ["b"]]
    assert [list(run) for run in batches_of(["", "aaaaaa"], 5)] == [["", "aaaaaa"]]
    assert len(batches_of(["a" * (1 << 18), "b"])) == 2
    assert len(batches_of(["a" * ((1 << 18) - 1), "b"])) == 1


def test_powers_grow_as_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_batch, "_cached_powers", [np.ones((2, 1), np.uint64)])
    for count, size in ((1, 1), (3, 4), (4, 4), (2, 4), (5, 8)):
        powers = text_batch._powers(count)
        assert powers.shape == (2, size)
        assert powers[0, :3].tolist() == [1, BASE, BASE**2 % 2**64][:size]
        assert set((powers[0] * powers[1]).tolist()) == {1}


# -- n-grams


def shares(text: str, top: range, sizes: range) -> dict[int, list[float]]:
    return {n: found.tolist() for n, found in repeated_ngram_chars(TextBatch(["q r", text, "q r"]), top, sizes)}


def test_repeated_ngrams_by_hand() -> None:
    # the commonest pair "b cc" at 1, 4 and 7: 9 of 3 + 9 + 4 characters; "a b" twice
    text = "a b cc d b cc a b cc ee f"
    assert shares(text, range(2, 4), range(0)) == {2: [0, 9 / 15, 0], 3: [0, 8 / 15, 0]}
    # overlapping places are covered once
    assert shares("x x x y", range(2, 3), range(0)) == {2: [0, 3 / 4, 0]}
    assert shares("a b c a b c a b c", range(0), range(3, 6)) == {n: [0, 6 / 9, 0] for n in (3, 4, 5)}
    assert list(shares("a b a b", range(2, 3), range(4, 5))) == [2, 4]
    assert list(shares("a b a b", range(3, 3), range(2, 4))) == [2, 3]


def test_an_ngram_does_not_leave_its_text() -> None:
    batch = TextBatch(["a b", "a b", "b a b a"])
    found = {n: part.tolist() for n, part in repeated_ngram_chars(batch, range(2, 4), range(0))}
    assert found == {2: [0, 0, 1.0], 3: [0, 0, 0]}
    same = {
        n: part.tolist() for n, part in repeated_ngram_chars(TextBatch(["a b c a b", "a b c"]), range(0), range(2, 3))
    }
    assert same == {2: [2 / 5, 0]}


def test_of_equally_common_ngrams_the_longest_then_the_first() -> None:
    places, classes = np.array([0, 2, 5, 7, 9, 11]), np.array([7, 9, 7, 9, 3, 3], np.uint64)
    owners, chars = np.zeros(6, int), np.array([2, 2, 2, 2, 2, 2])
    assert quality._most_frequent(places, classes, chars, owners, 1).tolist() == [0, 5]
    chars = np.array([2, 2, 2, 2, 3, 3])
    assert quality._most_frequent(places, classes, chars, owners, 1).tolist() == [9, 11]
    owners = np.array([0, 1, 0, 1, 1, 1])
    assert quality._most_frequent(places, classes, chars, owners, 2).tolist() == [0, 5, 9, 11]


# -- hashes of words


def test_words_at_the_ends_and_between_double_blanks() -> None:
    data = np.frombuffer(b" ab  c ", np.uint8)
    starts, ends = word_bounds(data)
    assert list(zip(starts.tolist(), ends.tolist(), strict=True)) == [(1, 3), (5, 6)]
    assert hash_words(data, starts, ends).tolist() == [hash_of(b"ab"), hash_of(b"c")]
    powers, inverse = powers_of(3)
    assert (powers.size, powers[:4].tolist()) == (MAX_BYTES, [1, 3, 9, 27])
    assert set((powers * inverse).tolist()) == {1}
    assert plain_words("a_b-c'd É٣½x") == [b"a", b"b", b"c", b"d", "é٣1".encode(), b"2x"]


def test_bands_by_hand() -> None:
    assert candidate_probability(0.5, 3, 2) == 1 - 0.75**3
    one = band_hashes(np.array([[1, 2, 3, 4, 5, 6]], np.uint32), 3)
    assert one.shape == (1, 3)

    def mixed(values: list[int], start: int) -> int:
        found = start
        for value in values:
            found = (found ^ value) * 0x100000001B3 % 2**64
            found ^= found >> 32
        found = found * 0x9E3779B97F4A7C15 % 2**64
        return found ^ found >> 29

    assert one[0].tolist() == [mixed(pair, 0xCBF29CE484222325) for pair in ([1, 2], [3, 4], [5, 6])]
    assert band_hashes(np.array([[7, 8]], np.uint32), 1, 5)[0, 0] == mixed([7, 8], 5)


def test_texts_without_words_have_no_bands() -> None:
    first, second, some = minhash.bands_of(["one two three", "!", "one two three", "four"], 4, 2, 2)
    assert some.tolist() == [True, False, True, True]
    assert first.shape == second.shape == (3, 4)
    assert first[0].tolist() == first[1].tolist() != first[2].tolist()
    assert not np.any(first == second)
    nothing = minhash.bands_of(["", "?"], 4, 2, 2)
    assert [part.shape for part in nothing] == [(0, 4), (0, 4), (2,)]


# -- components


def test_half_a_round_on_a_range(tmp_path: Path) -> None:
    hash_records.write_array(tmp_path / "a.npy", np.array([[1, 2], [3, 2]]))
    hash_records.write_array(tmp_path / "b.npy", np.array([[2, 1], [1, 2], [4, 3]]))
    task = {"inputs": [str(tmp_path / f"{name}.npy") for name in "ab"], "name": "x.npy", "ranges": 1}

    def out(step: str) -> list[list[int]]:
        answer = star_task({**task, "step": step, "out": str(tmp_path / step)}, HERE)
        found = hash_records.read_array(tmp_path / step / "00000" / "x.npy").tolist()
        assert answer["edges"] == len(found) // (2 if step == "small" else 1)
        return found

    assert out("spread") == [[2, 1], [2, 1], [3, 2], [4, 3]]
    both = np.array([[5, 2], [5, 3], [2, 5], [3, 5], [5, 4], [4, 5]])
    assert small_star(both[both[:, 0] > both[:, 1]]).tolist() == [[3, 2], [4, 2], [5, 2]]
    assert large_star(both).tolist() == [[5, 2], [5, 3], [5, 4]]
    assert sorted(out("small")) == [[1, 2], [2, 1], [2, 3], [3, 2], [3, 4], [4, 3]]


def test_every_node_is_in_one_range_by_its_mixed_number() -> None:
    nodes = np.arange(20_000)
    for ranges in (1, 3, 7):
        found = np.bincount(range_of(nodes, ranges), minlength=ranges)
        assert found.size == ranges
        assert found.min() > 0.9 * 20_000 / ranges
    assert range_of(np.array([1]), 1 << 24)[0] == 0x9E3779B97F4A7C15 >> 40


def test_a_digest_sees_every_edge_and_not_their_order() -> None:
    edges = np.array([[2, 1], [3, 1], [9, 4]])
    digest = components._digest(edges)
    assert digest == components._digest(edges[::-1])
    for other in (edges[:2], np.add(edges, [[0, 0], [0, 0], [0, 1]]), edges[:, ::-1]):
        assert components._digest(other) != digest
    assert components._digest(edges[:0]) == 0
    assert 0 < digest < 2**53


# -- lines of sites


def test_lines_of_a_site_are_counted_once_a_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa

    from tinyllama.document_files import write_document_file

    monkeypatch.setattr(boilerplate_lines, "_BATCH_ROWS", 2)
    again = "one two three"
    texts = [f"{again}\n{again}\nfirst of all", f"{again}\nno", f" {again} \nsecond of all", again, f"x\n{again}"]
    domains = ["a.org", "a.org", "a.org", "b.org", ""]
    write_document_file(tmp_path / "p.parquet", pa.table({"text": texts, "domain": domains}))
    task = {"documents": str(tmp_path / "p.parquet"), "out": str(tmp_path / "lines" / "p.npy"), "min_words": 3}
    assert file_lines(task, HERE) == {"records": 6, "documents": 5}
    records = hash_records.read_array(tmp_path / "lines" / "p.npy")
    assert sorted(records["row"].tolist()) == [0, 0, 1, 2, 2, 3]
    assert len(set(records["check"].tolist())) == 4
    hash_records.CorpusIndex(["p"], [0, 0]).save(tmp_path / "lines")
    for least, lines in ((1, 4), (3, 1), (4, 0)):
        out = tmp_path / f"{least}" / "0.npy"
        job = {"folder": str(tmp_path / "lines"), "out": str(out), "range": [0, 1], "min_documents": least}
        assert range_lines(job, HERE) == {"lines": lines}
    found = BoilerplateLines(tmp_path / "3").removed(texts, domains, 3)
    assert found == (["first of all", "no", "second of all", again, f"x\n{again}"], [2, 1, 1, 0, 0])
    assert BoilerplateLines(tmp_path / "4").removed(texts, domains, 3) == (texts, [0] * 5)


def test_lines_are_numbered_in_their_text() -> None:
    keys, owners, places = boilerplate_line_keys(["a b\n\nc d e", "x\na b\nc d e"], ["s", "t"], 2)
    assert (owners.tolist(), places.tolist()) == ([0, 0, 1, 1], [0, 1, 1, 2])
    assert len(set(keys.tolist())) == 4
    assert boilerplate_line_keys(["a b"], ["s"], 2)[0][0] == keys[0]
    assert text_batch.without_lines("\na\n \nb\n\nc\n", {0, 2}) == "\n \nb\n\n"


# -- resume, and the rest of cleaning


ROWS = [{"id": f"{n}", "text": prose(n % 4, 40) + f"\n\n{prose(99, 3)}" + " x" * n} for n in range(6)]


def test_what_a_killed_search_has_done_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = CleanConfig(workers=1)
    assert find(tmp_path, monkeypatch, ROWS, config) == "near_duplicate"
    files = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.rglob("*") if path.is_file()}
    assert (tmp_path / "clusters" / "done.json").is_file()
    assert find_duplicates.find_duplicates(config, tmp_path) == "near_duplicate"
    now = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.rglob("*") if path.is_file()}
    changed = {path.name for path in files if files[path] != now[path]}
    assert changed <= {"index.json"}
    for name in ("id_hashes.npy", "drop_codes-filtered.npy"):  # killed between two files: all are written
        (tmp_path / name).unlink()
    (tmp_path / "clusters" / "done.json").unlink()
    (tmp_path / "clusters" / "stale.npy").write_bytes(b"of a killed run")
    find_duplicates.find_duplicates(config, tmp_path)
    assert {path: path.read_bytes() for path in files if path.name != "index.json"} == {
        path: content for path, (content, _) in files.items() if path.name != "index.json"
    }
    assert not (tmp_path / "clusters" / "stale.npy").exists()


@pytest.mark.parametrize(("spare", "in_rounds"), [(0, False), (-1, True)])
def test_pairs_that_do_not_fit_in_memory_are_joined_in_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spare: int, in_rounds: bool
) -> None:
    """Six documents in two pairs: two edges of 96 bytes each."""
    called: list[int] = []
    plain = find_duplicates.components_in_rounds

    def rounds(paths: list[Path], work: Path, ranges: int, workers: int) -> list[list[Path]]:
        called.append(ranges)
        return plain(paths, work, ranges, workers)

    monkeypatch.setattr(find_duplicates, "components_in_rounds", rounds)
    monkeypatch.setattr(find_duplicates, "EDGE_BYTES", 4096)
    config = CleanConfig(workers=1, max_memory_bytes=2 * 4096 + spare)
    (tmp_path / "rounds" / "0").mkdir(parents=True)  # what a killed search has left
    (tmp_path / "rounds" / "0" / "stale.npy").touch()
    find(tmp_path, monkeypatch, ROWS, config)
    assert called == ([1] if in_rounds else [])
    assert (tmp_path / "rounds" / "0" / "stale.npy").exists() is not in_rounds
    drop_codes = hash_records.read_array(tmp_path / "drop_codes-near_duplicate.npy").tolist()
    assert drop_codes == [4, 4, 0, 0, 0, 0]


def test_near_duplicates_that_are_kept_keep_their_fate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = CleanConfig(workers=1, keep_near_duplicates=True)
    assert find(tmp_path, monkeypatch, ROWS, config) == "exact_duplicate"
    assert not (tmp_path / "drop_codes-near_duplicate.npy").exists()


def test_an_empty_validation_split_is_told_unless_it_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    in_this_process(monkeypatch)
    for share, told in ((0.0, False), (1e-9, True)):
        config = CleanConfig(workers=1, languages=[], safety="off", validation_fraction=share)
        clean_rows(tmp_path / f"{share}", [{"id": "a", "text": prose(1)}], config)
        assert ("is in the validation split" in capsys.readouterr().err) is told
        assert not (tmp_path / f"{share}" / "clean" / "work").exists()
    rows = [{"id": text, "text": text} for text in ("long enough", "also too long", "é")]
    config = CleanConfig(workers=1, max_document_chars=10)
    with pytest.raises(InputError, match="all 3 documents were dropped, 2 of them as too_long"):
        clean_rows(tmp_path / "bad", rows, config)
    assert not (tmp_path / "bad" / "clean").exists()
    with pytest.raises(InputError, match="no documents"):
        clean_documents(CleanConfig(), tmp_path / "none", tmp_path / "out")


def test_a_documents_fate_is_that_of_its_kept_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch)
    config = CleanConfig(workers=1, languages=[], safety="off", validation_fraction=0.0)
    rows = [
        {"id": "a", "text": prose(1)},
        {"id": "a", "text": prose(1) + " More."},
        {"id": "b", "text": "short"},
        {"id": "c"},
    ]
    clean_rows(tmp_path, rows, config)
    kept = explain_document(tmp_path, "a")
    assert (kept["fate"], kept["file"].split("/")[-2], kept["source"]) == ("train", "train", "")
    assert "text" not in kept
    short = explain_document(tmp_path / "clean", "b")
    assert {name: short[name] for name in ("id", "fate", "reason", "key")} == {
        "id": "b", "fate": "dropped", "reason": "gopher_short", "key": "clean.min_words",
    }  # fmt: skip
    assert explain_document(tmp_path, "input.jsonl:4")["reason"] == "no_text"
