"""The README.md of an exported model: data, recipe, scores and limits, from the run's own records.

Sections without records are omitted; nothing is estimated.
"""

import tomllib
from pathlib import Path
from typing import Any

from tinyllama.errors import InputError
from tinyllama.exchange.open_model import OpenedModel
from tinyllama.files import read_json

_HEAD = """\
---
library_name: transformers
pipeline_tag: text-generation
tags: [llama, tinyllama-pretrain]
---

# {name}

A Llama language model, pre-trained from scratch with `tinyllama-pretrain`. It continues text; it is not tuned to follow
instructions.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH")
model = AutoModelForCausalLM.from_pretrained("PATH")
inputs = tokenizer("Once", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=40)[0], skip_special_tokens=True))
```
"""
_TOKENIZER_NOTE = """
The tokenizer puts BOS first, as in training. The name of a special token in a text, such as `</s>`, is encoded as text
(`split_special_tokens`); to use the token, pass its id.
"""
_LIMITS = """
## Limits

- Its text may be wrong, biased or offensive, and may repeat passages of the training text.
- It knows only its training text, in the languages of that text.
- Its context is {context} tokens.

## Licence

The program that trained it claims no rights in these weights. Which licence they can have depends on the licences of the
texts above; name it here before you publish the model.
"""


def model_card(facts: dict[str, Any]) -> str:
    """The card in Markdown. `facts`: from `card_facts`; all but `name`, `model` and `parameters` are optional."""
    sections = [
        _HEAD.format(name=_plain(facts["name"])),
        _table("Network", {"parameters": facts["parameters"], **facts["model"]}),
        _TOKENIZER_NOTE,
        _list("Data: sources", facts.get("sources", [])),
        _table("Data: processing", facts.get("data", {})),
        _table("Recipe", facts.get("recipe", {})),
        _table("Scores on held-out text", facts.get("scores", {})),
        _LIMITS.format(context=facts["model"].get("seq_len", "?")),
    ]
    return "".join(sections)


def card_facts(opened: OpenedModel) -> dict[str, Any]:
    """What is known of a model: its network and, for a checkpoint in a run folder, the run's records."""
    checkpoint, run_dir = opened.origin, opened.origin.resolve().parent.parent
    facts: dict[str, Any] = {
        "name": checkpoint.resolve().name,
        "parameters": opened.config.n_parameters,
        "model": opened.config.to_dict(),
    }
    if opened.state is None:
        return facts
    facts["recipe"] = {"step": opened.state.step, "tokens": opened.state.tokens, **opened.state.train}
    facts["scores"] = _numbers(opened.state.validation or {}, "validation")
    if checkpoint.resolve().parent.name != "checkpoints":
        return facts
    facts["name"] = run_dir.name
    facts["sources"] = _sources(run_dir / "recipe.toml")
    data: dict[str, Any] = {}
    for phase in ("crawl", "clean", "shards"):
        data |= _numbers(_read_table(run_dir / phase / "manifest.json").get("summary"), phase)
    facts["data"] = data
    facts["scores"] = _evaluation(_read_table(run_dir / "evaluation.json"), opened.state.step) or facts["scores"]
    return facts


def _evaluation(values: dict[str, Any], step: int) -> dict[str, Any]:
    """Scores of evaluation.json, if they are of this step."""
    if values.get("step") != step:
        return {}
    scores = _numbers(values.get("validation"), "validation")
    scores |= _numbers({"perplexity": values.get("unigram_perplexity")}, "unigram model's")
    tasks = values.get("tasks")
    for task, metrics in tasks.items() if isinstance(tasks, dict) else ():
        scores |= _numbers(metrics, str(task))
    return scores


def _numbers(values: Any, prefix: str) -> dict[str, Any]:
    """The numbers among `values`, each under `prefix name`, and those of tables one level deep."""
    found: dict[str, Any] = {}
    for name, value in values.items() if isinstance(values, dict) else ():
        if isinstance(value, dict):
            found |= {f"{prefix} {name} {inner}": v for inner, v in value.items() if _is_number(v)}
        elif _is_number(value):
            found[f"{prefix} {name}"] = value
    return {name.replace("_", " "): value for name, value in found.items()}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _sources(path: Path) -> list[str]:
    if not path.is_file():
        return []
    try:
        sources = tomllib.loads(path.read_text(encoding="utf-8")).get("sources", {})
    except ValueError as error:
        raise InputError(f"{path}: not valid TOML ({error})") from None
    found = [*sources.get("seeds", []), *sources.get("paths", [])]
    if sources.get("documentation_site"):
        found.insert(0, "the documentation of the Python packages installed on the training machine")
    return [str(source) for source in found]


def _read_table(path: Path) -> dict[str, Any]:
    values = read_json(path) if path.is_file() else {}
    return values if isinstance(values, dict) else {}


def _table(title: str, rows: dict[str, Any]) -> str:
    if not rows:
        return ""
    lines = "".join(f"| {_plain(name)} | {_shown(value)} |\n" for name, value in rows.items())
    return f"\n## {title}\n\n| | |\n|---|---|\n{lines}"


def _list(title: str, items: list[str]) -> str:
    return f"\n## {title}\n\n" + "".join(f"- {_plain(item)}\n" for item in items) if items else ""


def _shown(value: Any) -> str:
    if isinstance(value, bool) or not _is_number(value):
        return _plain(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def _plain(value: Any) -> str:
    """One line of text, with Markdown and HTML escaped."""
    text = " ".join(str(value).split())
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#&" else c for c in text)
