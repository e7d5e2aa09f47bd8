"""Every phase together: a small crawl of the documentation site becomes a trained, evaluated and exported model."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tinyllama import files

RECIPE = """
[sources]
documentation_site = true
documentation_port = 8742
max_pages = 150
delay_seconds = 0.0
concurrency_per_host = 8

[clean]
c4_curly_bracket = false
c4_terminal_punctuation = false
fineweb_line_punctuation = false
min_language_confidence = 0.3
validation_fraction = 0.1

[tokenizer]
vocab_size = 600

[model]
preset = "tiny-2m"
dim = 32
n_layers = 2
ffn_dim = 64

[train]
steps = 12
seq_len = 64
micro_batch_size = 4
tokens_per_step = 512
precision = "fp32"
warmup_steps = 2
save_every_steps = 6
device = "cpu"

[generate]
prompts = ["Return the"]
max_new_tokens = 8
"""
PHASES = ["crawl", "clean", "tokenizer", "shards", "pretrain", "evaluate", "generate", "export"]
TIMING = {"seconds", "cpu_seconds"}


def tinyllama(*words: str | Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "tinyllama", *map(str, words)], capture_output=True, text=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict]:
    """The run's recipe, its folder, and what the first `run --json` printed."""
    folder = tmp_path_factory.mktemp("whole")
    recipe = folder / "small.toml"
    recipe.write_text(RECIPE)
    done = tinyllama("run", recipe, "--run-dir", folder / "run", "--json")
    assert done.returncode == 0, done.stderr
    return recipe, folder / "run", json.loads(done.stdout)


def test_every_phase_reports(finished):
    _, run_dir, result = finished
    assert [name for name in result if name in PHASES] == PHASES
    assert result["run_dir"] == str(run_dir)
    assert result["crawl"]["pages_stored"] == 150
    assert result["crawl"]["left_out"]["robots"] > 0
    clean = result["clean"]
    assert clean["documents_in"] == clean["documents_out"] + sum(clean["dropped"].values())
    assert result["tokenizer"]["vocab_size"] == 600
    assert result["shards"]["documents"] == clean["documents_out"]
    assert result["pretrain"]["step"] == 12
    assert result["evaluate"]["validation"] == pytest.approx(result["pretrain"]["validation"])
    assert result["evaluate"]["weights_sha256"] == result["pretrain"]["weights_sha256"]
    assert len(result["generate"]["token_ids"]) <= 8
    assert (run_dir / "report.html").stat().st_size > 10_000


def test_finished_phases_are_not_run_again(finished):
    recipe, run_dir, result = finished
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*") if path.is_file()}
    again = json.loads(tinyllama("run", recipe, "--run-dir", run_dir, "--json").stdout)
    assert again | {"seconds": 0} == result | {"seconds": 0}
    changed = {path.name for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert changed <= {"recipe.toml", "report.html"}


def test_what_training_rests_on_is_not_made_anew(finished):
    recipe, run_dir, _ = finished
    before = {path: files.sha256_file(path) for path in run_dir.rglob("*.*")}
    done = tinyllama("run", recipe, "--run-dir", run_dir, "clean.min_words=80")
    assert done.returncode == 2
    assert "crawl: already done" in done.stderr
    assert "clean: made with other settings (min_words: 50 -> 80)" in done.stderr.replace("\n", " ")
    assert {path: files.sha256_file(path) for path in before} == before


def test_a_changed_rule_is_seen_from_its_phase_on(finished, tmp_path):
    recipe, run_dir, _ = finished
    copy = Path(shutil.copytree(run_dir, tmp_path / "run"))
    shutil.rmtree(copy / "checkpoints")
    done = tinyllama("run", recipe, "--run-dir", copy, "clean.min_words=80")
    assert done.returncode == 0, done.stderr
    for words in (
        "crawl: already done",
        "clean: re-running because of a change (min_words: 50 -> 80)",
        "tokenizer: re-running",
    ):
        assert words in done.stderr.replace("\n", " ")


def test_single_commands_work_on_the_result(finished):
    _, run_dir, result = finished
    scored = json.loads(tinyllama("score", run_dir, "--text", "Return the sum.", "--json").stdout)
    assert scored["token_logprobs"][0] is None
    assert len(scored["token_ids"]) == len(scored["token_logprobs"])
    greedy = [
        tinyllama("generate", run_dir, "--prompt", "The", "--greedy", "--max-new-tokens", "5", "--json") for _ in "ab"
    ]
    texts = [json.loads(done.stdout)["token_ids"] for done in greedy]
    assert texts[0] == texts[1]
    assert (
        json.loads(tinyllama("evaluate", run_dir, "--json").stdout)["weights_sha256"]
        == result["pretrain"]["weights_sha256"]
    )


def test_exported_model_opens_in_transformers_with_equal_logits(finished):
    import torch
    import transformers

    from tinyllama import open_model

    _, run_dir, _ = finished
    opened = open_model(run_dir, device="cpu")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(run_dir / "model").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(run_dir / "model")
    text = "  Return the <s> sum of\n\tan array, naïve \N{ROLLING ON THE FLOOR LAUGHING}."
    ids = opened.tokenizer.encode(text)
    assert tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] == ids
    with torch.no_grad():
        tokens = torch.tensor([ids])
        torch.testing.assert_close(opened.network(tokens), theirs(tokens).logits, rtol=2e-5, atol=2e-5)


def test_tokenizer_reads_and_writes_lines(finished):
    _, run_dir, _ = finished
    lines = '"Return the sum."\n" <s>\\u0000 "\n'
    command = [sys.executable, "-m", "tinyllama", "tokenizer"]
    encoded = subprocess.run([*command, "encode", run_dir, "--json"], input=lines, capture_output=True, text=True)
    ids = json.loads(encoded.stdout)["ids"]
    words = "".join(json.dumps(row) + "\n" for row in ids)
    decoded = subprocess.run([*command, "decode", run_dir, "--json"], input=words, capture_output=True, text=True)
    assert json.loads(decoded.stdout)["texts"] == ["Return the sum.", " <s>\0 "]
