"""Every task with its real examples where they are at hand: answer keys, and the same answers as lm-eval's own model."""

import gzip
import json
import math
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance

from tests.conftest import SHARED
from tests.harness.task_files import FILES, PIQA, SQUAD, TASKS, write_rows, write_task_files
from tests.instruments.answer_keys import Chance, Oracle, chance_score
from tests.tiny_model import tiny_llama
from tinyllama.errors import InputError
from tinyllama.exchange.hugging_face import export_hugging_face
from tinyllama.exchange.open_model import OpenedModel
from tinyllama.harness.lm_model import HarnessModel
from tinyllama.harness.load_task import LoadedTask, load_task, spread, spread_groups
from tinyllama.harness.run_tasks import TaskSettings, measure
from tinyllama.harness.task_list import GROUPS, TaskEntry, all_tasks, choose_tasks
from tinyllama.harness.task_results import read_examples
from tinyllama.tokenizer.bpe import Tokenizer

EVAL = SHARED / "eval"
SAMPLE_ROWS = 40
ENTRIES = all_tasks()
needs_data = pytest.mark.skipif(not EVAL.is_dir(), reason="needs the evaluation data beside the checkout")
WITH_DATA = [name for name, entry in ENTRIES.items() if all((EVAL / file).is_file() for file in entry.test)]


@pytest.fixture(autouse=True)
def no_sockets(monkeypatch: pytest.MonkeyPatch):
    """Nothing is fetched when a folder is given: a socket of the internet fails the test."""
    real = socket.socket

    class NoInternet(real):
        def __init__(self, family: int = -1, *args: Any, **kwargs: Any) -> None:
            if family in (socket.AF_INET, socket.AF_INET6, -1):
                pytest.fail("a socket of the internet was opened")
            super().__init__(family, *args, **kwargs)

    monkeypatch.setattr(socket, "socket", NoInternet)


def measured(model: Any, entry: TaskEntry, data: Path, out: Path, limit: int | None = None) -> dict[str, Any]:
    return measure(model, entry, TaskSettings(data, limit), out, {}, entry.name)["metrics"]


def test_groups_are_of_known_tasks():
    assert {name for group in GROUPS.values() for name in group} <= ENTRIES.keys()
    assert choose_tasks(["piqa", "zero_shot", "piqa"])[0].name == "piqa"
    assert len(choose_tasks(["zero_shot"])) == 7
    assert len(choose_tasks(["all"])) == len(ENTRIES)


def test_an_unknown_task_is_answered_with_the_nearest():
    with pytest.raises(InputError, match=r"--tasks hellaswagg: no such task; did you mean hellaswag\?"):
        choose_tasks(["hellaswagg"])
    with pytest.raises(InputError, match="name at least one"):
        choose_tasks([])


def test_a_limit_is_spread_over_the_file():
    assert spread(10, 4) == [0, 2, 5, 7]
    assert spread(3, 9) == spread(3, None) == [0, 1, 2]


def test_a_limit_takes_whole_groups():
    groups = ["a", "a", "b", "b", "b", "c", "d", "d"]
    assert spread_groups(groups, None) == spread_groups(groups, 8) == list(range(8))
    assert spread_groups(groups, 6) == [0, 1, 2, 3, 4, 5]  # three of four
    assert spread_groups(groups, 5) == [0, 1, 5]  # two of four, the first and the third
    assert spread_groups(groups, 2) == [0, 1]
    assert spread_groups(groups, 1) == [0, 1]  # one group at least
    assert spread_groups(["a", "b", "a", "b"], 2) == [0, 2]


@needs_data
def test_the_two_sentences_of_a_pair_differ_by_gender_alone():
    loaded = load_task(ENTRIES["axg"], EVAL)
    assert loaded.groups is not None
    words = {"he": "she", "his": "her", "him": "her", "himself": "herself"}
    for first, second in zip(loaded.doc_ids[::2], loaded.doc_ids[1::2], strict=True):
        assert loaded.groups[first] == loaded.groups[second]
        a, b = loaded.task.task_docs[first], loaded.task.task_docs[second]
        assert (a["hypothesis"], a["label"]) == (b["hypothesis"], b["label"])
        pairs = zip(a["premise"].lower().split(), b["premise"].lower().split(), strict=True)
        assert all(x == y or words[x.strip(".,;")] == y.strip(".,;") for x, y in pairs), (a, b)
    assert len(set(loaded.groups)) == 178


@needs_data
def test_the_answers_to_a_question_of_multirc_are_a_group():
    loaded = load_task(ENTRIES["multirc"], EVAL, limit=30)
    assert loaded.groups is not None
    assert len(loaded.groups) == 4848
    assert len(set(loaded.groups)) == 953
    assert 15 < loaded.n <= 30
    chosen = {loaded.groups[n] for n in loaded.doc_ids}
    assert loaded.doc_ids == [n for n, group in enumerate(loaded.groups) if group in chosen]  # whole groups


def test_parity_and_exact_match_of_questions_by_hand(tmp_path: Path):
    """Four pairs, of which one is answered in two ways; two questions, of which one is answered rightly throughout."""

    class Told(Oracle):
        """Knows the answers, but for some examples by number."""

        def __init__(self, loaded: LoadedTask, wrong: set[int]) -> None:
            super().__init__(loaded)
            self._wrong = wrong

        def _choice(self, request: Instance) -> tuple[float, bool]:
            logprob, greedy = super()._choice(request)
            return (-1e6 - logprob, False) if request.doc_id in self._wrong else (logprob, greedy)

    rows = [
        {"premise": f"{who} came {n}.", "hypothesis": "Somebody came.", "idx": 2 * n + side, "label": n % 2}
        for n in range(4)
        for side, who in enumerate(("He", "She"))
    ]
    write_rows(tmp_path / "superglue_axg" / "test.jsonl.gz", rows)
    loaded = load_task(ENTRIES["axg"], tmp_path)
    found = measured(Told(loaded, {1, 4, 5}), ENTRIES["axg"], tmp_path, tmp_path / "axg")
    assert found["parity"] == pytest.approx(3 / 4)  # the third pair is wrong twice, and so even
    assert found["parity_stderr"] == pytest.approx(0.25)
    assert found["acc"] == pytest.approx(5 / 8)
    answers = [("What?", "this", 1), ("What?", "that", 0), ("What?", "it", 1), ("Who?", "he", 1), ("Who?", "she", 1)]
    rows = [{"paragraph": "P.", "question": q, "answer": a, "label": label} for q, a, label in answers]
    write_rows(tmp_path / "superglue_multirc" / "validation.jsonl.gz", rows)
    loaded = load_task(ENTRIES["multirc"], tmp_path)
    found = measured(Told(loaded, {0}), ENTRIES["multirc"], tmp_path, tmp_path / "multirc")
    assert (found["em"], found["acc"]) == (0.5, 0.8)
    assert found["f1"] == pytest.approx(2 * 3 / (2 * 3 + 0 + 1))  # three right ones found, one missed
    assert read_examples(tmp_path / "multirc", "multirc")[0]["values"]["em"] == 0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SAMPLE_ROWS rows of each real file, evenly spread."""
    folder = tmp_path_factory.mktemp("sample")
    for entry in ENTRIES.values():
        for name in (*entry.test, *entry.train):
            if (EVAL / name).is_file() and not (folder / name).exists():
                with gzip.open(EVAL / name, "rb") as file:
                    lines = list(file)
                chosen = [lines[number] for number in spread(len(lines), SAMPLE_ROWS)]
                if entry.group:  # neighbours
                    chosen = lines[:SAMPLE_ROWS]
                if entry.test_rows:  # one file serves as both parts
                    chosen = lines[: entry.test_rows[0] + SAMPLE_ROWS]
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(gzip.compress(b"".join(chosen), 1))
    return folder


@needs_data
@pytest.mark.parametrize("name", WITH_DATA)
def test_the_oracle_is_right_and_drawing_is_chance(name: str, data: Path, tmp_path: Path):
    entry = ENTRIES[name]
    loaded = load_task(entry, data)
    known = measured(Oracle(loaded), entry, data, tmp_path / "oracle")
    drawn = measured(Chance(loaded), entry, data, tmp_path / "drawn")
    for metric, kind in entry.metrics.items():
        assert known[metric] == pytest.approx(0 if kind == "bits_per_unit" else 1), metric
        expected = chance_score(loaded, metric)
        if expected is not None:
            error = max(drawn[f"{metric}_stderr"] or 0, 0.5 / math.sqrt(loaded.n))
            assert abs(drawn[metric] - expected) < 3.5 * error, metric
    if name == "wikitext103":  # every byte as likely as the others; some are lost when the text is detokenised
        assert 7.5 < drawn["bits_per_byte"] < 8


@pytest.fixture(scope="module")
def opened(prepared_run: Path) -> OpenedModel:
    model = tiny_llama(seq_len=1024).eval()
    return OpenedModel(model, model.config, Tokenizer.load(prepared_run / "tokenizer"), Path("tiny"), None)


@pytest.fixture(scope="module")
def theirs(opened: OpenedModel, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Any]:
    """HFLM with the same weights, by whether it adds BOS: to whole texts it would add a second one."""
    pytest.importorskip("accelerate")
    from lm_eval.models.huggingface import HFLM

    folder = tmp_path_factory.mktemp("export") / "model"
    export_hugging_face(opened, folder)
    made: Any = HFLM
    models = {
        add_bos: made(pretrained=str(folder), device="cpu", dtype=torch.float32, batch_size=4, add_bos_token=add_bos)
        for add_bos in (False, True)
    }
    for (
        model
    ) in models.values():  # a random network makes bytes that are no text, which each library writes its own way
        whole = model.tok_decode
        model.tok_decode = lambda ids, skip_special_tokens=True, whole=whole: (
            opened.tokenizer.decode(ids) if skip_special_tokens else whole(ids, skip_special_tokens=False)
        )
    return models


@needs_data
@pytest.mark.parametrize("name", WITH_DATA)
def test_answers_are_those_of_hflm(name: str, opened: OpenedModel, theirs: dict[bool, Any], data: Path, tmp_path: Path):
    entry, limit = ENTRIES[name], 3
    ours = measured(HarnessModel(opened), entry, data, tmp_path / "ours", limit)
    other = measured(theirs[name != "wikitext103"], entry, data, tmp_path / "theirs", limit)
    assert ours.keys() == other.keys()
    assert all(ours[key] == other[key] or ours[key] == pytest.approx(other[key], rel=1e-4) for key in ours)
    for a, b in zip(
        *(read_examples(tmp_path / who, f"{name}-limit{limit}") for who in ("ours", "theirs")), strict=True
    ):
        assert a["prediction"] == b["prediction"] or a["prediction"].strip() == b["prediction"].strip()


@needs_data
@pytest.mark.parametrize("name", ["arc_easy", "cola", "winogrande", "mrpc"])
def test_scores_are_those_of_lm_eval_itself(name: str, opened: OpenedModel, data: Path, tmp_path: Path):
    """lm-eval's own loop and aggregation over the same requests."""
    from lm_eval.evaluator import evaluate

    entry, limit = ENTRIES[name], 30
    ours = measured(HarnessModel(opened), entry, data, tmp_path, limit)
    loaded = load_task(entry, data, limit=limit)
    run: Any = evaluate
    found = run(HarnessModel(opened), {name: loaded.task}, samples={name: loaded.doc_ids}, bootstrap_iters=0)
    for metric in entry.metrics:
        assert found["results"][name][f"{metric},none"] == pytest.approx(ours[metric])


@needs_data
def test_few_shot_examples_come_from_the_training_part(data: Path):
    loaded = load_task(ENTRIES["cb"], data, limit=2, num_fewshot=3)
    prompt = str(loaded.requests[0].args[0])
    assert prompt.count("True, False, or Neither?") == 4
    assert prompt == str(load_task(ENTRIES["cb"], data, limit=2, num_fewshot=3).requests[0].args[0])
    with pytest.raises(InputError, match=r"glue_qnli/train.jsonl.gz: no such file"):
        load_task(ENTRIES["qnli"], data, num_fewshot=1)


def test_an_example_is_never_its_own_few_shot_example(tmp_path: Path):
    data = write_task_files(tmp_path)
    for request in load_task(ENTRIES["piqa"], data, num_fewshot=3).requests:
        *shots, question = str(request.args[0]).split("\n\n")
        assert len(shots) == 3
        assert not any(shot.startswith(question) for shot in shots)


def test_hand_made_files_do_for_a_few_tasks(tmp_path: Path):
    data = write_task_files(tmp_path / "data")
    for name in TASKS:
        loaded = load_task(ENTRIES[name], data)
        known = measured(Oracle(loaded), ENTRIES[name], data, tmp_path / "out")
        assert known[ENTRIES[name].main_metric] == pytest.approx(1)


BAD_ROWS: list[tuple[list[Any], str]] = [
    ([], r"validation.jsonl.gz: no example in it"),
    ([PIQA[0], {"goal": "x", "sol1": "y", "label": 0}], r"line 2: no field 'sol2'; it has 'goal', 'sol1', 'label'"),
    ([PIQA[0], PIQA[1] | {"sol2": None}], r"line 2: field 'sol2' is null"),
    ([["goal"]], r"line 1: list instead of an object"),
    ([PIQA[0] | {"label": "left"}], r"example 1 does not fit the task piqa \(ValueError: answer 'left' is none of 2"),
    ([PIQA[0], PIQA[1] | {"label": -1}], r"example 2 does not fit the task piqa \(ValueError: answer -1 is none of 2"),
]


@pytest.mark.parametrize(("rows", "message"), BAD_ROWS)
def test_unfit_files_are_refused(rows: list[Any], message: str, tmp_path: Path):
    write_rows(tmp_path / "piqa" / "validation.jsonl.gz", rows)
    with pytest.raises(InputError, match=message):
        load_task(ENTRIES["piqa"], tmp_path)


def test_a_field_within_a_field_is_looked_for(tmp_path: Path):
    """Without its text an answer would count as "unanswerable"."""
    for answers, message in (
        ({"texts": ["x"]}, "it has 'texts'"),
        (["x"], "is not an object"),
        ({"text": None}, "is null"),
    ):
        row = SQUAD[0] | {"answers": answers}
        write_rows(tmp_path / "squad_v2" / "validation.jsonl.gz", [SQUAD[1], row])
        with pytest.raises(InputError, match=rf"line 2: .*'answers.text'.*{message}"):
            load_task(ENTRIES["squad_v2"], tmp_path)


def test_a_label_that_is_no_choice_is_refused_where_lm_eval_would_take_it(tmp_path: Path):
    row = {"premise": "It rained.", "choice1": "A.", "choice2": "B.", "question": "cause", "label": 0}
    write_rows(tmp_path / "superglue_copa" / "validation.jsonl.gz", [row, row | {"label": 2}])
    with pytest.raises(InputError, match=r"line 2: 'label' is 2; permitted are \[0, 1\]"):
        load_task(ENTRIES["copa"], tmp_path)


def test_pairs_that_no_number_tells_are_refused(tmp_path: Path):
    row = {"premise": "He came.", "hypothesis": "Somebody came.", "idx": "first", "label": 0}
    write_rows(tmp_path / "superglue_axg" / "test.jsonl.gz", [row])
    with pytest.raises(InputError, match=r"axg/test.jsonl.gz: example 1 does not fit the task axg \(TypeError"):
        load_task(ENTRIES["axg"], tmp_path)


@pytest.mark.parametrize("name", ["piqa", "squad_v2", "lambada"])
def test_an_example_longer_than_the_context_is_cut_and_counted(
    name: str, prepared_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    long = "The value of a name is an object. " * 40
    rows = {
        "piqa": PIQA[0] | {"goal": long},
        "squad_v2": SQUAD[0] | {"context": long},
        "lambada": {"text": f"{long}The value of the name is the value"},
    }
    path = ENTRIES[name].test[0]
    write_rows(tmp_path / path, [rows[name], *FILES[path][-1:]])
    model = tiny_llama(seq_len=64).eval()
    opened = OpenedModel(model, model.config, Tokenizer.load(prepared_run / "tokenizer"), Path("tiny"), None)
    found = measure(HarnessModel(opened), ENTRIES[name], TaskSettings(tmp_path), tmp_path / "out", {}, name)
    assert found["n"] == 2
    assert found["n_truncated"] >= 1
    assert json.loads((tmp_path / "out" / f"{name}.json").read_text())["n_truncated"] == found["n_truncated"]
    said = " ".join(capfd.readouterr().err.split())
    assert f"{found['n_truncated']} texts were longer than the context and lost tokens on the left" in said


def test_missing_and_damaged_files_are_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"piqa/validation.jsonl.gz: no such file \(.* has no folder piqa\)"):
        load_task(ENTRIES["piqa"], tmp_path)
    with pytest.raises(InputError, match=r"--data-dir .*nowhere: no such folder"):
        load_task(ENTRIES["piqa"], tmp_path / "nowhere")
    path = tmp_path / "piqa" / "validation.jsonl.gz"
    write_rows(path, PIQA)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="damaged compression"):
        load_task(ENTRIES["piqa"], tmp_path)
    path.unlink()
    (path.parent / "validation.jsonl").write_text("{not json\n")
    with pytest.raises(InputError, match=r"validation.jsonl, line 1: not JSON"):
        load_task(ENTRIES["piqa"], tmp_path)
