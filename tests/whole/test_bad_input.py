"""What a user gets wrong: exit code 2, one line that names it, nothing half-written."""

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SENTENCE = "The quick brown fox jumps over the lazy dog, and that is that. It was the best of times for all of them. "


def fails(*words: str | Path, stdin: str = "") -> str:
    """Run a command that must fail; return its one line."""
    command = [sys.executable, "-m", "tinyllama", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, input=stdin)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("tinyllama: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    path = tmp_path / "documents.jsonl"
    rows = [{"id": f"d{number}", "text": f"{number} {SENTENCE * 3}"} for number in range(5)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.peek_lr=1", "unknown key train.peek_lr, did you mean train.peak_lr?"),
        ("trian.steps=1", "unknown key trian, did you mean train?"),
        ("train.steps=many", 'train.steps = "many" should be a valid integer'),
        ("train.steps=-1", "train.steps = -1 should be greater than or equal to 0"),
        ("model.preset=tinylama-1.1b", "did you mean tinyllama-1.1b?"),
        ("model.n_heads=7", "model.n_kv_heads: 4 does not divide n_heads 7"),
        ("train.precision=fp4", "train.precision"),
        ("steps", "write section.key=value"),
    ],
)
def test_recipes(override: str, message: str, tmp_path: Path):
    assert message in fails("pretrain", "tinyllama-1b", "--run-dir", tmp_path, override)


def test_recipe_files(tmp_path: Path):
    assert "no such file" in fails("run", tmp_path / "none.toml")
    assert "Did you mean small-120m" in fails("run", "small-12m")
    broken = tmp_path / "broken.toml"
    broken.write_text("[train\nsteps = 1")
    assert f"{broken}: not valid TOML" in fails("run", broken)
    broken.write_bytes(b"\xff\xfe")
    assert f"{broken}: not valid TOML" in fails("run", broken)
    assert "sources: nothing to read" in fails("run", "tinyllama-1b", "--run-dir", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_missing_and_empty_inputs(tmp_path: Path):
    out = tmp_path / "out"
    assert "no such file" in fails("clean", tmp_path / "none.jsonl", "--out", out)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert str(empty) in fails("clean", empty, "--out", out)
    (empty / "nothing.jsonl").write_text("")
    assert "nothing.jsonl" in fails("clean", empty, "--out", out)
    assert "no text" in fails("tokenizer", "train", empty / "nothing.jsonl", "--out", out)
    assert not out.exists()


def test_truncated_warc(tmp_path: Path):
    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    path = tmp_path / "pages.warc.gz"
    with path.open("wb") as file:
        writer = WARCWriter(file, gzip=True)
        for number in range(3):
            page = tmp_path / "page.html"
            page.write_text(f"<html><body><p>{number} {SENTENCE * 20}</p></body></html>")
            with page.open("rb") as payload:
                headers = StatusAndHeaders("200 OK", [("Content-Type", "text/html")], protocol="HTTP/1.1")
                writer.write_record(
                    writer.create_warc_record(
                        f"http://a.example/{number}", "response", payload=payload, http_headers=headers
                    )
                )
    path.write_bytes(path.read_bytes()[:-40])
    assert "pages.warc.gz" in fails("clean", path, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_compressed_file_that_is_cut_off(tmp_path: Path, documents: Path):
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(gzip.compress(documents.read_bytes())[:-20])
    assert "cut.jsonl.gz" in fails("clean", path, "--out", tmp_path / "out")


def test_vocabulary_larger_than_the_text(tmp_path: Path, documents: Path):
    line = fails("tokenizer", "train", documents, "--out", tmp_path / "out", "--vocab-size", "30000")
    assert "tokenizer.vocab_size" in line
    assert "30000" in line
    assert not (tmp_path / "out").exists()


def test_sequence_longer_than_the_data(prepared_run: Path, tmp_path: Path):
    for name in ("shards", "tokenizer"):
        (tmp_path / name).symlink_to(prepared_run / name)
    size = ["train.seq_len=1000000", "train.tokens_per_step=1000000", "train.micro_batch_size=1"]
    vocabulary = ["tokenizer.vocab_size=512", "model.preset=tiny-2m", "train.device=cpu", "train.steps=1"]
    line = fails("pretrain", "small-120m", "--run-dir", tmp_path, *size, *vocabulary)
    assert "train.seq_len = 1000000" in line
    assert not (tmp_path / "checkpoints").exists()


def test_one_document_is_enough_for_a_tokenizer_and_shards(tmp_path: Path, documents: Path):
    one = tmp_path / "one.jsonl"
    one.write_text(documents.read_text().splitlines()[0] + "\n")
    for words in (
        ("clean", one, "--out", tmp_path / "clean", "clean.c4_min_sentences=1", "clean.gopher_repetition=false"),
        ("tokenizer", "train", tmp_path / "clean", "--out", tmp_path / "t", "--vocab-size", "295"),
        ("shards", tmp_path / "clean", "--tokenizer", tmp_path / "t", "--out", tmp_path / "s"),
    ):
        done = subprocess.run([sys.executable, "-m", "tinyllama", *map(str, words)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_models_and_outputs(tmp_path: Path, documents: Path):
    assert "no such" in fails("generate", tmp_path / "none", "--prompt", "a")
    (tmp_path / "folder").mkdir()
    assert str(tmp_path / "folder") in fails("score", tmp_path / "folder", "--text", "a")
    (tmp_path / "folder" / "mine.txt").write_text("mine")
    assert "not empty" in fails("clean", documents, "--out", tmp_path / "folder")
    assert (tmp_path / "folder" / "mine.txt").read_text() == "mine"


def test_models_of_strangers(tmp_path: Path, prepared_run: Path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + (3).to_bytes(4, "little") + b"\xff" * 16)
    assert f"{broken}: 18446744073709551615 tensors" in fails("score", broken, "--text", "a")
    assert str(broken) in fails("export", broken, "--out", tmp_path / "out", "--format", "gguf")
    assert not (tmp_path / "out").exists()
    folder = tmp_path / "hf"
    folder.mkdir()
    shutil.copy(prepared_run / "tokenizer" / "tokenizer.model", folder)
    sizes = {"vocab_size": 512, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "intermediate_size": 48, **sizes}))
    header = b'{"model.norm.weight": {"dtype": "F32", "shape": [32], "data_offsets": [0, 99999999999]}}'
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(128))
    assert "model.safetensors: not a complete safetensors file" in fails("generate", folder, "--prompt", "a")


def test_plan(tmp_path: Path):
    assert "did you mean A100-40G" in fails("plan", "tinyllama-1b", "--gpus", "16xA100-40")
    assert "3X" in fails("plan", "tinyllama-1b", "--gpus", "1xH100", "--tokens", "3X")


def test_lines_on_stdin(prepared_run: Path):
    tokenizer = prepared_run / "tokenizer"
    assert "line 2" in fails("tokenizer", "encode", tokenizer, stdin='"fine"\nnot json\n')
    assert "line 1" in fails("tokenizer", "decode", tokenizer, stdin='"a"\n')
    assert "whole number" in fails("tokenizer", "decode", tokenizer, stdin="[1.5]\n")


def test_private_addresses_need_a_word(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "tinyllama", "crawl", "http://127.0.0.1:9/", "--out", str(tmp_path / "out"), "--json"],
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 2), done.stderr
    assert "private_address" in done.stdout + done.stderr
