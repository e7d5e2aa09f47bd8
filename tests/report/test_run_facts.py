import pytest

from tests.report.run_folder import crawl_only, manifest, metrics_row, whole, write, write_rows
from tinyllama.errors import InputError
from tinyllama.report.run_facts import FunnelStep, counts, number, read_run, table


def test_a_whole_run(tmp_path):
    whole(tmp_path)
    facts = read_run(tmp_path)
    assert facts.parameters == 98_765
    assert facts.unigram_perplexity == 333.3
    assert facts.validation["tokens"] == 4242
    assert facts.phase_seconds == {"crawl": 2.5, "clean": 1.5, "shards": 0.5, "pretrain": 10.0}
    assert facts.funnel[1] == FunnelStep("quality", 29, 17, 7000, 4321, {"few_words": 12})
    assert len(facts.metrics) == 30
    assert facts.recipe["model"]["dim"] == 64


def test_a_repeated_step_counts_once_the_later_one(tmp_path):
    write_rows(
        tmp_path, "metrics.jsonl", [metrics_row(1), metrics_row(2, loss=9.0), metrics_row(3), metrics_row(2, loss=1.0)]
    )
    facts = read_run(tmp_path)
    assert [(row["step"], row["loss"]) for row in facts.metrics] == [(1, 4.9), (2, 1.0), (3, 4.7)]


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path):
    write(tmp_path, "metrics.jsonl", '{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert [row["step"] for row in read_run(tmp_path).metrics] == [1]


def test_validation_of_an_unfinished_run_is_the_last_measured(tmp_path):
    rows = [metrics_row(1, validation={"loss": 4.0}), metrics_row(2, validation={"loss": 3.0}), metrics_row(3)]
    write_rows(tmp_path, "metrics.jsonl", rows)
    assert read_run(tmp_path).validation == {"loss": 3.0}


def test_no_run(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        read_run(tmp_path / "absent")
    with pytest.raises(InputError, match="no run folder"):
        read_run(tmp_path)
    write(tmp_path, "notes.txt", "hello")
    with pytest.raises(InputError, match="no run folder"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("name", "damaged"),
    [
        ("recipe.toml", b"[model\n"),
        ("recipe.toml", b"\xff\xfe"),
        ("evaluation.json", b'{"validation": '),
        ("samples.json", b"\xff"),
        ("crawl/manifest.json", b"not json"),
        ("metrics.jsonl", b"\xff\xfe\n"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name: str, damaged: bytes):
    crawl_only(tmp_path)
    (tmp_path / name).write_bytes(damaged)
    with pytest.raises(InputError, match=name) as caught:
        read_run(tmp_path)
    assert "\n" not in str(caught.value)


def test_values_of_the_wrong_kind_are_missing_values(tmp_path):
    crawl_only(tmp_path)
    write(
        tmp_path,
        "clean/funnel.json",
        {"steps": [7, {"step": "x"}, {"step": "y", "documents_in": "many", "documents_out": 1}]},
    )
    write(tmp_path, "evaluation.json", [1, 2])
    write(tmp_path, "samples.json", {"samples": "none"})
    write(tmp_path, "model/manifest.json", manifest("export", parameters="many", seconds=None))
    write_rows(tmp_path, "metrics.jsonl", [{"step": None}, {"loss": 1.0}, {"step": True}])
    facts = read_run(tmp_path)
    assert facts.funnel == ()
    assert facts.evaluation == {}
    assert facts.samples == ()
    assert facts.metrics == ()
    assert facts.parameters is None


def test_shapes_are_those_that_were_trained(tmp_path):
    write(tmp_path, "recipe.toml", '[model]\npreset = "tiny-2m"\n')
    assert read_run(tmp_path).model_values == {"preset": "tiny-2m"}
    trained = manifest("pretrain") | {"config": {"model": {"dim": 8, "n_layers": 2}}}
    write(tmp_path, "checkpoints/manifest.json", trained)
    assert read_run(tmp_path).model_values == {"dim": 8, "n_layers": 2}


def test_extraction_is_counted_within_cleaning(tmp_path):
    write(tmp_path, "documents/manifest.json", manifest("documents", seconds=2.0))
    assert read_run(tmp_path).phase_seconds == {"documents": 2.0}
    write(tmp_path, "clean/manifest.json", manifest("clean", seconds=5.0))
    assert read_run(tmp_path).phase_seconds == {"clean": 5.0}


def test_numbers_tables_counts():
    assert [number(v) for v in (1, 2.5, True, None, "3", float("nan"), float("inf"), [], 10**400)] == [1, 2.5] + [
        None
    ] * 7
    assert table([1]) == {}
    assert counts({"b": 2, "a": 2, "c": 9, "d": 0, "e": "x", "f": float("nan")}) == {"c": 9, "a": 2, "b": 2}
