"""Functions that the files in `tasks/` name: prompts and answers of an example, and its scores from the model's answers."""

import math
import re
from functools import cache
from typing import Any

from tinyllama.harness.task_scores import answer_f1, exact_match, normalize_answer

NO_ANSWER = "unanswerable"
Example = dict[str, Any]


# -- STS-B: the mean of the ratings 0 to 5, weighted by their probabilities --------------------------------------------


def nearest_rating(example: Example) -> int:
    """The integer rating nearest to the example's, which is the number of its choice."""
    return round(float(example["label"]))


def expected_rating(example: Example, results: list[tuple[float, bool]]) -> dict[str, Any]:
    """(expected rating, gold rating). `results`: log-probability of each integer rating."""
    highest = max(logprob for logprob, _ in results)
    weights = [math.exp(logprob - highest) for logprob, _ in results]
    rating = sum(number * weight for number, weight in enumerate(weights)) / sum(weights)
    pair = (rating, float(example["label"]))
    return {"pearson": pair, "spearman": pair}


# -- ReCoRD: which entity fills the query's gap ------------------------------------------------------------------------


def record_passage(example: Example) -> str:
    """The passage, with its highlights as a list."""
    text, *highlights = example["passage"].strip().split("\n@highlight\n")
    return f"{text}\n\n" + "".join(f"  - {highlight}.\n" for highlight in highlights)


def record_choices(example: Example) -> list[str]:
    """The query as a further highlight, with each entity in its gap."""
    return [_filled(example["query"], entity) for entity in _entities(example)]


def record_answer(example: Example) -> str:
    """The query with its first answer."""
    return _filled(example["query"], sorted(set(example["answers"]))[0])


def record(example: Example, results: list[tuple[float, bool]]) -> dict[str, float]:
    """Exact match and F1 of the most probable entity."""
    logprobs = [logprob for logprob, _ in results]
    entity = _entities(example)[logprobs.index(max(logprobs))]
    return {"em": exact_match(entity, example["answers"]), "f1": answer_f1(entity, example["answers"])}


def _entities(example: Example) -> list[str]:
    return sorted(set(example["entities"]))


def _filled(query: str, entity: str) -> str:
    return f"  - {query}".replace("@placeholder", entity)


# -- SQuAD -------------------------------------------------------------------------------------------------------------


def first_answer(example: Example) -> str:
    """The answer in a few-shot example."""
    return (example["answers"]["text"] or [NO_ANSWER])[0]


def squad_v1(example: Example, results: list[str]) -> dict[str, float]:
    """Exact match and F1 of the answer."""
    golds = example["answers"]["text"]
    return {"exact_match": exact_match(results[0], golds), "f1": answer_f1(results[0], golds)}


def squad_v2(example: Example, results: list[Any]) -> dict[str, Any]:
    """Exact match and F1 of an answer that may be "unanswerable", and the values from which the best threshold is found.

    `results`: the text, and (log-probability, ...) of "unanswerable". `best_...`: (log-probability, score when answered,
    score when not answered).
    """
    text, (no_answer_logprob, _) = results
    golds = example["answers"]["text"]
    answer = "" if normalize_answer(text) == NO_ANSWER else text
    scores = {"exact_match": exact_match(answer, golds), "f1": answer_f1(answer, golds)}
    silent = float(not golds)
    return {
        **scores,
        "answerable_f1": scores["f1"] if golds else None,
        "unanswerable_f1": None if golds else scores["f1"],
        "best_exact_match": (no_answer_logprob, scores["exact_match"], silent),
        "best_f1": (no_answer_logprob, scores["f1"], silent),
    }


# -- summaries ---------------------------------------------------------------------------------------------------------


def rouge(example: Example, results: list[str]) -> dict[str, float]:
    """F measure of ROUGE-1, -2 and -L (Lin 2004) of a text's first paragraph, with stemming, white space collapsed."""
    found = _scorer().score(_one_line(example["highlights"]), _one_line(first_paragraph(results[0])))
    return {name: found[name].fmeasure for name in ("rouge1", "rouge2", "rougeL")}


def first_paragraph(text: str) -> str:
    """The text up to the first empty line after its first word; models often begin with an empty line."""
    return re.split(r"\n\s*\n", text.strip(), maxsplit=1)[0]


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
