import hashlib
import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from tinyllama.commands.app import app
from tinyllama.commands.options import fertility_table
from tinyllama.tokenizer import fertility as fertility_file
from tinyllama.tokenizer.bpe import Tokenizer
from tinyllama.tokenizer.fertility import (
    FertilitySample,
    KindSample,
    count_tokens,
    fertility,
    hash_share,
    is_byte_token,
    longest_tokens,
)


def sample_of(documents: list[tuple[str, str]]) -> FertilitySample:
    sample = FertilitySample()
    for kind, text in documents:
        sample.add(kind, text, len(text.encode()), hash_share(text))
    return sample


def test_counts_by_hand(tokenizer: Tokenizer):
    # "12\n" is ▁ 1 2 <0x0A>; the flag has no piece: ▁ and eight bytes
    assert count_tokens(tokenizer, ["12\n"]) == (3, 4, 1, 1)
    assert count_tokens(tokenizer, ["12\n", "🇫🇷"]) == (11, 13, 9, 1)
    assert count_tokens(tokenizer, []) == (0, 0, 0, 0)


def test_a_kind_counts_as_much_as_its_bytes(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    found = fertility(tokenizer, sample_of([("web", "12\n"), ("book", "🇫🇷"), ("book", "🇫🇷")]))
    assert found["by_kind"] == {
        "book": {
            "documents": 2, "text_bytes": 16, "sample_bytes": 16, "bytes_per_token": round(16 / 18, 4),
            "byte_fallback_share": round(16 / 18, 6), "byte_fallback_share_without_newlines": round(16 / 18, 6),
        },
        "web": {
            "documents": 1, "text_bytes": 3, "sample_bytes": 3, "bytes_per_token": 0.75,
            "byte_fallback_share": 0.25, "byte_fallback_share_without_newlines": 0.0,
        },
    }  # fmt: skip
    assert found["bytes_per_token"] == round(19 / 22, 4)
    assert found["byte_fallback_share"] == round(17 / 22, 6)
    assert found["byte_fallback_share_without_newlines"] == round(16 / 21, 6)
    monkeypatch.setattr(fertility_file, "SAMPLE_BYTES", 1)  # one book is measured and stands for both
    sampled = fertility(tokenizer, sample_of([("web", "12\n"), ("book", "🇫🇷"), ("book", "🇫🇷")]))
    assert sampled["by_kind"]["book"]["sample_bytes"] == 8
    assert {key: sampled[key] for key in sampled if key != "by_kind"} == {
        key: found[key] for key in found if key != "by_kind"
    }


def test_the_sample_is_bounded_and_does_not_depend_on_order(texts: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fertility_file, "SAMPLE_BYTES", 5_000)
    forwards = sample_of([("web", text) for text in texts]).kinds["web"]
    shuffled = random.Random(3).sample(texts, len(texts))
    assert sample_of([("web", text) for text in shuffled]).kinds["web"].texts() == forwards.texts()
    smallest = sorted(texts, key=hash_share)
    assert forwards.texts() == smallest[: len(forwards.texts())]
    sizes = [len(text.encode()) for text in forwards.texts()]
    assert sum(sizes) >= 5_000 > sum(sizes[:-1])
    assert forwards.documents == len(texts)


def test_kinds_without_end_are_put_together(tokenizer: Tokenizer):
    sample = sample_of([(f"kind {number}", "a text") for number in range(1000)])
    assert len(sample.kinds) == fertility_file.MAX_KINDS + 1
    assert sample.kinds["other"].documents == 1000 - fertility_file.MAX_KINDS
    assert fertility(tokenizer, sample)["by_kind"]["other"]["documents"] == 1000 - fertility_file.MAX_KINDS


def test_longest_pieces(tokenizer: Tokenizer):
    ordinary = [tokenizer.token(i) for i in range(259, tokenizer.vocab_size)]
    found = longest_tokens(tokenizer)
    assert len(found) == 10
    assert set(found) <= set(ordinary)
    shortest = min(map(len, found))
    assert all(piece in found or len(piece) <= shortest for piece in ordinary)
    assert [len(piece) for piece in found] == sorted((len(piece) for piece in found), reverse=True)


def test_the_table_names_every_kind_and_writes_no_control_character(tokenizer: Tokenizer, tmp_path: Path):
    by_kind = fertility(tokenizer, sample_of([("web", "12\n"), ("\x1b[31mred", "12\n")]))["by_kind"]
    lines = fertility_table(by_kind).splitlines()
    assert len(lines) == 3
    assert len({len(line) for line in lines}) == 1
    assert "\x1b" not in "".join(lines)
    assert lines[-1].split() == ["web", "1", "3", "0.750", "25.000%", "0.000%"]


def test_the_command_prints_the_table_and_the_manifest_keeps_the_figures(corpus: Path, tmp_path: Path):
    words = ["tokenizer", "train", str(corpus), "--out", str(tmp_path / "out"), "--vocab-size", "600"]
    for_people = CliRunner().invoke(app, words).stdout.splitlines()
    again = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    summary = json.loads((tmp_path / "out" / "manifest.json").read_text())["summary"]
    assert again == summary
    assert for_people[-2:] == fertility_table(summary["by_kind"]).splitlines()
    assert summary["by_kind"]["web"]["bytes_per_token"] == summary["bytes_per_token"]
    assert f"bytes_per_token: {summary['bytes_per_token']:,.4g}" in for_people


def test_the_sample_by_hand(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fertility_file, "SAMPLE_BYTES", 10)
    sample = KindSample()

    def texts_after(text: str, share: float) -> list[str]:
        sample.add(text, len(text), share)
        return sample.texts()

    assert texts_after("aaaaaa", 0.5) == ["aaaaaa"]
    assert texts_after("bbbbbb", 0.3) == ["bbbbbb", "aaaaaa"]
    assert texts_after("cccc", 0.4) == ["bbbbbb", "cccc"]  # 10 bytes are enough without the largest
    assert texts_after("d", 0.4) == ["bbbbbb", "cccc"]  # no smaller than the largest
    assert texts_after("e", 0.6) == ["bbbbbb", "cccc"]
    assert texts_after("fff", 0.1) == ["fff", "bbbbbb", "cccc"]  # 9 bytes would be too few
    assert texts_after("gggg", 0.2) == ["fff", "gggg", "bbbbbb"]
    assert (sample.documents, sample.text_bytes) == (7, 6 + 6 + 4 + 1 + 1 + 3 + 4)


def test_a_seventeenth_kind_goes_under_other():
    kinds = [f"k{number}" for number in range(16)]
    sample = sample_of([(kind, "a") for kind in [*kinds, "k0", "late", "later", "k15"]])
    assert list(sample.kinds) == [*kinds, "other"]
    assert {kind: found.documents for kind, found in sample.kinds.items() if found.documents > 1} == {
        "k0": 2, "k15": 2, "other": 2,
    }  # fmt: skip


def test_how_much_of_each_kind_is_measured():
    assert (fertility_file.SAMPLE_BYTES, fertility_file.MAX_KINDS, fertility_file.N_LONGEST) == (2_000_000, 16, 10)


def test_a_hash_share_is_the_first_eight_bytes_of_sha256():
    assert hash_share("") == 0xE3B0C44298FC1C14 / 2**64
    assert hash_share("abc") == 0xBA7816BF8F01CFEA / 2**64
    assert hash_share("é") == int(hashlib.sha256(b"\xc3\xa9").hexdigest()[:16], 16) / 2**64


def test_nothing_divides_by_zero(tokenizer: Tokenizer):
    nothing = {"bytes_per_token": 0, "byte_fallback_share": 0, "byte_fallback_share_without_newlines": 0}
    found = fertility(tokenizer, sample_of([("web", "")]))
    row = {"documents": 1, "text_bytes": 0, "sample_bytes": 0} | nothing
    assert found == nothing | {"by_kind": {"web": row}, "longest_pieces": longest_tokens(tokenizer)}


def test_which_pieces_are_bytes_and_which_are_longest():
    pieces = ["<unk>", "<s>", "</s>", "<0x41>", "<0x4>", "<0x411>", "xxx", "aaa", "▁▁▁▁", "<0xAB", "0x41>", *"bcdefghi"]
    assert [piece for piece in pieces if is_byte_token(piece)] == ["<0x41>"]
    fake: Any = SimpleNamespace(vocab_size=len(pieces), token=pieces.__getitem__, bos_id=1, eos_id=2, unk_id=0)
    assert longest_tokens(fake) == ["<0x411>", "0x41>", "<0x4>", "<0xAB", "▁▁▁▁", "aaa", "xxx", "b", "c", "d"]
