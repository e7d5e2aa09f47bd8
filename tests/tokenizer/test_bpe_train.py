import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyllama.errors import InputError, RecipeError
from tinyllama.tokenizer.bpe import Tokenizer
from tinyllama.tokenizer.bpe_train import TrainingText, split_line, train_tokenizer
from tinyllama.tokenizer.tokenizer_config import TokenizerConfig

WriteJsonl = Callable[[Path, list[str]], Path]
FILES = ("tokenizer.model", "tokenizer.json")
CONFIG = TokenizerConfig(vocab_size=1000)


def same_files(a: Path, b: Path) -> bool:
    return all((a / name).read_bytes() == (b / name).read_bytes() for name in FILES)


def test_threads_order_and_files_do_not_change_the_result(
    trained: Path, texts: list[str], tmp_path: Path, write_jsonl: WriteJsonl
):
    shuffled = random.Random(1).sample(texts, len(texts))
    third = len(texts) // 3
    parts = tmp_path / "parts" / "train"
    parts.mkdir(parents=True)
    write_jsonl(parts / "b.jsonl", shuffled[:third])
    pq.write_table(pa.table({"text": shuffled[third : 2 * third]}), parts / "a.parquet")
    write_jsonl(parts / "c.jsonl", shuffled[2 * third :])
    held_out = tmp_path / "parts" / "validation"
    held_out.mkdir()
    write_jsonl(held_out / "v.jsonl", ["never to be seen " * 50])
    for threads in (1, 3):
        config = TokenizerConfig(vocab_size=1000, threads=threads)
        train_tokenizer(config, [tmp_path / "parts"], tmp_path / f"out{threads}")
        assert same_files(trained, tmp_path / f"out{threads}")


def test_the_summary_is_true(corpus: Path, texts: list[str], tmp_path: Path):
    summary = train_tokenizer(CONFIG, [corpus], tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    ids = [i for text in texts for i in tokenizer.encode(text)]
    text_bytes = sum(len(text.encode()) for text in texts)
    assert summary["vocab_size"] == 1000 == tokenizer.vocab_size
    assert summary["documents"] == len(texts)
    assert summary["text_bytes"] == text_bytes
    assert summary["bytes_per_token"] == pytest.approx(text_bytes / len(ids), abs=1e-4)
    assert summary["byte_fallback_share"] == pytest.approx(sum(3 <= i < 259 for i in ids) / len(ids), abs=1e-6)
    assert max(len(tokenizer.token(i)) for i in range(259, 1000)) == len(summary["longest_pieces"][0])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)


def test_llamas_scheme(tokenizer: Tokenizer):
    pieces = [tokenizer.token(i) for i in range(tokenizer.vocab_size)]
    assert not [piece for piece in pieces[259:] if "\n" in piece]
    assert not [p for p in pieces[259:] if len(p) > 1 and any(c.isdigit() for c in p)]  # digits stand alone
    assert [tokenizer.token(i) for i in tokenizer.encode("12\n")] == ["▁", "1", "2", "<0x0A>"]
    assert "▁▁▁▁" in pieces  # indentation has pieces of its own


def test_more_text_than_allowed_is_sampled_by_document(texts: list[str], tmp_path: Path, write_jsonl: WriteJsonl):
    one = write_jsonl(tmp_path / "one.jsonl", texts)
    halves = [
        write_jsonl(tmp_path / "y.jsonl", texts[: len(texts) // 2]),
        write_jsonl(tmp_path / "x.jsonl", texts[len(texts) // 2 :]),
    ]
    limit = TrainingText([one], 10**9).bytes // 3
    kept = list(TrainingText([one], limit).texts())
    assert sorted(kept) == sorted(TrainingText(halves[::-1], limit).texts())
    assert 0.5 * limit < sum(len(text.encode()) for text in kept) < 1.5 * limit
    assert list(TrainingText([one], 10**9).texts()) == texts


def test_a_vocabulary_larger_than_the_text_allows_names_the_largest_that_works(tmp_path: Path, write_jsonl: WriteJsonl):
    corpus = write_jsonl(tmp_path / "c.jsonl", ["hello world, hello tokenizer"] * 3)
    with pytest.raises(RecipeError, match=r"tokenizer\.vocab_size = 4096: .* at most (\d+)") as caught:
        train_tokenizer(TokenizerConfig(vocab_size=4096), [corpus], tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    largest = int(str(caught.value).split("at most ")[1].split()[0])
    assert train_tokenizer(TokenizerConfig(vocab_size=largest), [corpus], tmp_path / "out")["vocab_size"] == largest
    with pytest.raises(RecipeError, match="at most"):
        train_tokenizer(TokenizerConfig(vocab_size=largest + 1), [corpus], tmp_path / "out2")


def test_a_vocabulary_smaller_than_the_characters_need(tmp_path: Path, write_jsonl: WriteJsonl):
    corpus = write_jsonl(tmp_path / "c.jsonl", ["abcdefghijklmnopqrstuvwxyz"])
    with pytest.raises(RecipeError, match=r"tokenizer\.vocab_size = 270: .* 286"):  # 3 + 256 + 26 letters + blank
        train_tokenizer(TokenizerConfig(vocab_size=270), [corpus], tmp_path / "out")


@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
def test_an_empty_corpus(tmp_path: Path, texts: list[str], write_jsonl: WriteJsonl):
    corpus = write_jsonl(tmp_path / "c.jsonl", texts)
    with pytest.raises(InputError, match=r"c\.jsonl: no text to train"):
        train_tokenizer(CONFIG, [corpus], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["\n\n\n", "▅▅▅"])
def test_text_that_leaves_nothing_to_train_on(tmp_path: Path, text: str, write_jsonl: WriteJsonl):
    corpus = write_jsonl(tmp_path / "c.jsonl", [text])
    with pytest.raises(InputError, match="cannot train on this text") as caught:
        train_tokenizer(CONFIG, [corpus], tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_hostile_characters_in_the_text_do_no_harm(texts: list[str], tmp_path: Path, write_jsonl: WriteJsonl):
    nasty = ["a\0b \0 \x07", "x\ty\r\nz", "▁▁ ▁", "<s> </s> <unk> <0x0A>", "😀" * 5000, "z" * 20_000, " " * 9000]
    corpus = write_jsonl(tmp_path / "c.jsonl", [*texts, *nasty * 3])
    train_tokenizer(TokenizerConfig(vocab_size=800, character_coverage=1.0), [corpus], tmp_path / "out")
    tokenizer, alone = Tokenizer.load(tmp_path / "out"), Tokenizer.load(tmp_path / "out" / "tokenizer.json")
    for text in nasty:
        assert tokenizer.decode(tokenizer.encode(text)) == text.replace("▁", " ")
        assert tokenizer.encode(text) == alone.encode(text) == tokenizer.encode_batch([text])[0].tolist()


def test_nothing_is_written_to_stderr_but_our_line(corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    train_tokenizer(CONFIG, [corpus], tmp_path)
    lines = [line for line in capfd.readouterr().err.splitlines() if line.strip()]
    assert all(line.startswith("tokenizer:") for line in lines)


@given(st.text("ab 你\t", max_size=200), st.integers(1, 30))
def test_cut_lines_are_short_and_lose_only_blanks(line: str, limit: int):
    parts = list(split_line(line, limit))
    assert all(0 < len(part) <= limit for part in parts)
    assert "".join(parts).replace(" ", "") == line.replace(" ", "")


def test_cutting_at_blanks_keeps_the_words():
    line = "the quick brown fox jumps over"
    assert [word for part in split_line(line, 10) for word in part.split()] == line.split()


def test_killed_while_training_leaves_nothing_half_written(
    texts: list[str], trained: Path, corpus: Path, tmp_path: Path
):
    script = (
        "import sys; from pathlib import Path\n"
        "from tinyllama.tokenizer import bpe_train\n"
        "real = bpe_train.to_tokenizer_json\n"
        "def slow(model): print('half done', flush=True); sys.stdin.read(); return real(model)\n"
        "bpe_train.to_tokenizer_json = slow\n"
        "config = bpe_train.TokenizerConfig(vocab_size=1000)\n"
        "bpe_train.train_tokenizer(config, [Path(sys.argv[1])], Path(sys.argv[2]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(corpus), str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"half done\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "tokenizer.json").exists()
    assert list(tmp_path.glob(".tokenizer.json.*"))  # the file that was being written
    train_tokenizer(CONFIG, [corpus], tmp_path)
    assert same_files(trained, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)
