"""Safety, evaluation data and personal information as steps of cleaning: reasons in the funnel, and `explain`."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cleaning.clean_inputs import prose, write_json_lines
from tests.cleaning.test_clean_run import check_counts, rows_of, run
from tinyllama.cleaning.clean_config import CleanConfig
from tinyllama.cleaning.document_filters import FilterModels, filter_documents
from tinyllama.cleaning.explain import explain_document, key_of_reason
from tinyllama.errors import InputError

RUDE = (
    "Shut up, you stupid fucking idiot, you are a worthless piece of shit. Fuck off, you stupid bitch, and do it now."
)
LEAK = "The keeper who had lost his only key to the old tower asked the children to climb in by the window."
ROWS = [
    *({"id": f"good-{n}", "text": prose(n)} for n in range(5)),
    {"id": "one bad paragraph", "text": f"{prose(10, 20)}\n\n{RUDE}\n\n{prose(11, 20)}"},
    {"id": "all bad", "text": "\n\n".join([f"{RUDE} {prose(20 + n, 2)}".replace("\n", " ") for n in range(6)])},
    {"id": "leak", "text": f"{prose(12)}\n{LEAK}\n{prose(13)}"},
    {
        "id": "number",
        "text": f"{prose(14)}\nHis card was 4111 1111 1111 1111 and his number GB29 NWBK 6016 1331 9268 19 there.",
    },
]


@pytest.fixture
def eval_folder(tmp_path: Path) -> Path:
    (tmp_path / "eval" / "towers").mkdir(parents=True)
    write_json_lines(tmp_path / "eval" / "towers" / "test.jsonl.gz", [{"question": LEAK, "answer": "yes"}])
    return tmp_path / "eval"


def cleaned(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    tmp_path.mkdir(exist_ok=True)
    path = write_json_lines(tmp_path / "x.jsonl", ROWS)
    summary = run(tmp_path, [path], CleanConfig(workers=1, gopher_repetition=False, fineweb=False, **changes))
    check_counts(tmp_path, summary)
    return summary


def test_each_step_has_its_reasons(tmp_path: Path, eval_folder: Path) -> None:
    summary = cleaned(tmp_path, decontaminate=str(eval_folder))
    assert summary["dropped"] == {"contaminated": 1, "safety_hate": 1}
    assert summary["contaminated"] == {"towers": 1}
    assert summary["unsafe_paragraphs"] == 1
    assert {kind: count for kind, count in summary["masked"].items() if count} == {"iban": 1, "card": 1}
    funnel = json.loads((tmp_path / "clean" / "funnel.json").read_text())
    assert {step["step"]: step["dropped"] for step in funnel["steps"] if step["dropped"]} == {
        "safety": {"safety_hate": 1},
        "decontamination": {"contaminated": 1},
    }
    kept = {row["id"]: row for split in ("train", "validation") for row in rows_of(tmp_path / "clean" / split)}
    assert RUDE not in kept["one bad paragraph"]["text"]
    assert kept["one bad paragraph"]["text"].startswith(prose(10, 20))
    assert "His card was [card] and his number [iban] there." in kept["number"]["text"]
    assert 0 <= kept["good-0"]["hate"] < 0.5
    assert 0 <= kept["good-0"]["sexual"] < 0.97


def test_the_recipe_decides(tmp_path: Path, eval_folder: Path) -> None:
    strict = cleaned(tmp_path / "a", safety="document", personal_information="drop")
    assert strict["dropped"] == {"personal_information": 1, "safety_hate": 2}
    mild = cleaned(
        tmp_path / "b",
        safety="off",
        personal_information="keep",
        decontaminate=str(eval_folder),
        decontaminate_drops="paragraph",
    )
    assert mild["dropped"] == {}
    assert mild["contaminated_paragraphs"] == 1
    assert sum(mild["masked"].values()) == 0
    kept = {row["id"]: row for split in ("train", "validation") for row in rows_of(tmp_path / "b" / "clean" / split)}
    assert kept["leak"]["text"] == f"{prose(12)}\n{prose(13)}"
    assert kept["leak"]["hate"] is None


def test_explain(tmp_path: Path, eval_folder: Path) -> None:
    cleaned(tmp_path, decontaminate=str(eval_folder))
    for folder in (tmp_path, tmp_path / "clean"):
        leak = explain_document(folder, "leak")
        assert (leak["fate"], leak["reason"]) == ("dropped", "contaminated")
        assert leak["detail"].startswith("towers ")
        assert leak["key"] == "clean.decontaminate_drops"
    bad = explain_document(tmp_path, "all bad")
    assert (bad["reason"], bad["key"]) == ("safety_hate", "clean.max_hate")
    assert bad["detail"].endswith("6 of 6 paragraphs")
    good = explain_document(tmp_path, "good-1")
    assert good["fate"] in ("train", "validation")
    assert good["hate"] < 0.5
    with pytest.raises(InputError, match="no document with the id 'none'"):
        explain_document(tmp_path, "none")
    with pytest.raises(InputError, match="no finished cleaning"):
        explain_document(tmp_path / "eval", "leak")


def test_a_batch_gives_the_same_rows_as_its_documents_one_by_one() -> None:
    config = CleanConfig()
    models = FilterModels.open(config)
    texts = [row["text"] for row in ROWS]
    together = filter_documents(texts, [""] * len(texts), config, models)
    assert together == [filter_documents([text], [""], config, models)[0] for text in texts]
    assert filter_documents([], [], config, models) == []


def test_bad_models_and_folders_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"safety\.safetensors: no such file|no such file"):
        cleaned(tmp_path / "a", safety_model=str(tmp_path / "none"))
    with pytest.raises(InputError, match=r"no such folder; clean\.decontaminate takes"):
        cleaned(tmp_path / "b", decontaminate=str(tmp_path / "none"))
    assert not (tmp_path / "b" / "clean").exists()


def test_every_reason_names_a_key_that_exists() -> None:
    for reason in ("safety_hate", "safety_sexual", "contaminated", "personal_information"):
        assert key_of_reason(reason).removeprefix("clean.") in CleanConfig.model_fields
