import pytest

from tests.report.run_folder import crawl_only, manifest, metrics_row, whole, write, write_rows
from tinyllama.errors import InputError
from tinyllama.report.run_facts import MANIFESTS, OTHER_FILES, FunnelStep, counts, number, read_run, table


def test_a_whole_run(tmp_path):
    whole(tmp_path)
    facts = read_run(tmp_path)
    assert facts.parameters == 98_765
    assert facts.unigram_perplexity == 333.3
    assert facts.validation["tokens"] == 4242
    assert facts.phase_seconds == {"crawl": 2.5, "clean": 1.5, "shards": 0.5, "pretrain": 10.0}
    assert facts.funnel[1] == FunnelStep("quality", 29, 17, 4321, {"few_words": 12})
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
    with pytest.raises(InputError, match="not a run folder"):
        read_run(tmp_path)
    write(tmp_path, "notes.txt", "hello")
    with pytest.raises(InputError, match="not a run folder"):
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
    assert counts({"b": 2, "a": 2, "c": 9, "d": 0, "e": "x", "f": float("nan"), "g": 1}) == {
        "c": 9, "a": 2, "b": 2, "g": 1,
    }  # fmt: skip


@pytest.mark.parametrize("name", [*MANIFESTS.values(), *OTHER_FILES])
def test_any_file_of_a_run_makes_it_one(tmp_path, name: str):
    write(tmp_path / "my run", name, "" if name.endswith(("l", "toml")) else {})
    assert read_run(tmp_path / "my run").name == "my run"


def test_each_file_goes_into_its_own_part(tmp_path):
    write(tmp_path, "recipe.toml", "[model]\ndim = 3\n")
    groups = {name: {name: {"in": 1}} for name in ("domain", "language", "licence")}
    write(tmp_path, "clean/funnel.json", groups | {"other": {"a": 1}})
    write_rows(tmp_path, "metrics.jsonl", [{"step": 2.0}, {"step": 1}])
    write_rows(tmp_path, "events.jsonl", [{"event": "start"}, {"event": "stop"}])
    write(tmp_path, "evaluation.json", {"e": 1})
    write(tmp_path, "samples.json", {"samples": [{"text": "a"}, 5, {"text": "b"}]})
    write(tmp_path, "scorecard.json", {"c": 1})
    for phase, name in MANIFESTS.items():
        write(tmp_path, name, manifest(phase, seconds=1))
    facts = read_run(tmp_path)
    assert (facts.recipe_text, facts.recipe) == ("[model]\ndim = 3\n", {"model": {"dim": 3}})
    assert facts.document_groups == groups
    assert [row["step"] for row in facts.metrics] == [1, 2]
    assert [row["event"] for row in facts.events] == ["start", "stop"]
    assert (facts.evaluation, facts.scorecard) == ({"e": 1}, {"c": 1})
    assert [row["text"] for row in facts.samples] == ["a", "b"]
    assert {phase: found["phase"] for phase, found in facts.manifests.items()} == {phase: phase for phase in MANIFESTS}
    assert list(facts.phase_seconds) == [phase for phase in MANIFESTS if phase != "documents"]


def test_the_evaluations_figures_come_before_the_trainings(tmp_path):
    assert list(MANIFESTS)[-4:] == ["pretrain", "evaluate", "generate", "export"]
    rows = [metrics_row(1, validation={"loss": 1.0}), metrics_row(2, validation={})]
    write_rows(tmp_path, "metrics.jsonl", rows)
    assert (read_run(tmp_path).validation, read_run(tmp_path).unigram_perplexity) == ({"loss": 1.0}, None)
    trained = manifest("pretrain", validation={"loss": 2.0}, unigram_perplexity=20)
    write(tmp_path, "checkpoints/manifest.json", trained)
    assert (read_run(tmp_path).validation, read_run(tmp_path).unigram_perplexity) == ({"loss": 2.0}, 20)
    write(tmp_path, "evaluation.json", {"validation": {"loss": 3.0}, "unigram_perplexity": 0})
    assert (read_run(tmp_path).validation, read_run(tmp_path).unigram_perplexity) == ({"loss": 3.0}, 0)
    write(tmp_path, "metrics.jsonl", "")
    write(tmp_path, "evaluation.json", {"validation": {}})
    (tmp_path / "checkpoints/manifest.json").unlink()
    assert read_run(tmp_path).validation == {}


def test_parameters_are_those_of_the_first_phase_that_knows_them(tmp_path):
    for phase, name, count in (
        ("export", "model", 3), ("evaluate", "evaluation.manifest.json", 2), ("pretrain", "checkpoints", 1),
    ):  # fmt: skip
        file = name if name.endswith("json") else f"{name}/manifest.json"
        write(tmp_path, file, manifest(phase, parameters=count))
        assert read_run(tmp_path).parameters == count


def test_seconds_are_of_finished_phases_and_not_below_zero(tmp_path):
    for phase, seconds in (("shards", 0), ("crawl", -1), ("tokenizer", "x")):
        write(tmp_path, MANIFESTS[phase], manifest(phase, seconds=seconds))
    write(tmp_path, MANIFESTS["documents"], manifest("documents", seconds=2))
    write(tmp_path, MANIFESTS["clean"], manifest("clean"))
    assert read_run(tmp_path).phase_seconds == {"documents": 2, "shards": 0}
    assert list(read_run(tmp_path).phase_seconds) == ["documents", "shards"]


def test_a_bad_step_of_the_funnel_does_not_end_it(tmp_path):
    steps = [
        {"step": "a", "documents_in": 9, "documents_out": None},
        {
            "documents_in": 8,
            "documents_out": 7,
            "bytes_in": 6,
            "bytes_out": "x",
            "dropped": {"r": 1.9, "s": 0.5, "t": -3},
        },
        {"step": "c", "documents_in": None, "documents_out": 5},
        {"step": "d", "documents_in": 4, "documents_out": 3, "bytes_out": 2},
    ]
    write(tmp_path, "clean/funnel.json", {"steps": steps})
    assert read_run(tmp_path).funnel == (
        FunnelStep("", 8, 7, None, {"r": 1}),
        FunnelStep("d", 4, 3, 2, {}),
    )


def test_events_that_are_no_text_are_named(tmp_path):
    (tmp_path / "events.jsonl").write_bytes(b'{"event": "\xff"}\n')
    with pytest.raises(InputError, match=r"events\.jsonl: not UTF-8"):
        read_run(tmp_path)
