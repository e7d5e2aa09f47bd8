"""The phases of a run and what each reads: from web pages to a report, in the order in which data flows.

Each function makes one `Phase`, which imports its heavy libraries only when it runs. `run_recipe` runs all phases in one
run folder; the single commands run one of them on the user's inputs.
"""

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyllama import files, log
from tinyllama.errors import InputError, RecipeError, RunStoppedError, TinyllamaError
from tinyllama.parallel.launch import join
from tinyllama.phase_runner import Phase, allowed_changes, run_phase, versions
from tinyllama.recipe import Recipe, to_toml

if TYPE_CHECKING:
    from tinyllama.parallel.ranks import Ranks

Summary = dict[str, Any]
# Once training has begun these are not re-run: a changed recipe needs another run folder.
TRAINING_RESTS_ON = {"crawl", "clean", "tokenizer", "shards"}
# A run's position in the data is counted in these: with other values, a step would mean other tokens.
FIXED_ONCE_BEGUN = {"train.tokens_per_step", "train.seq_len"}


def crawl_phase(recipe: Recipe, out: Path) -> Phase:
    """Pages from the web into WARC files."""

    def work(out: Path) -> Summary:
        from tinyllama.sources.crawl import crawl

        return crawl(recipe.sources, out)

    config = recipe.sources.result_values()
    return Phase("crawl", 1, {key: value for key, value in config.items() if key != "paths"}, (), out, work)


def clean_phase(recipe: Recipe, inputs: tuple[Path, ...], out: Path, documents: Path) -> Phase:
    """Raw pages and documents to training documents; extracted text stays in `documents` for the next cleaning."""

    def extract(out: Path) -> Summary:
        from tinyllama.cleaning.clean_run import extract_documents

        return extract_documents(recipe.clean, list(inputs), out)

    def work(out: Path) -> Summary:
        from tinyllama.cleaning.clean_run import clean_documents, close_workers

        run_phase(Phase("documents", 1, {"max_page_bytes": recipe.clean.max_page_bytes}, inputs, documents, extract))
        try:
            return clean_documents(recipe.clean, documents, out)
        finally:
            close_workers()

    given = tuple(Path(name) for name in (recipe.clean.safety_model, recipe.clean.decontaminate) if name)
    return Phase("clean", 4, recipe.clean.result_values(), (*inputs, *given), out, work)


def tokenizer_phase(recipe: Recipe, inputs: tuple[Path, ...], out: Path) -> Phase:
    """Training documents to a BPE vocabulary."""

    def work(out: Path) -> Summary:
        from tinyllama.tokenizer.bpe_train import train_tokenizer

        return train_tokenizer(recipe.tokenizer, list(inputs), out)

    return Phase("tokenizer", 1, recipe.tokenizer.result_values(), inputs, out, work)


def shards_phase(recipe: Recipe, inputs: tuple[Path, ...], tokenizer: Path, out: Path) -> Phase:
    """Documents to token ids on disk."""

    def work(out: Path) -> Summary:
        from tinyllama.shards.shard_writer import write_shards
        from tinyllama.tokenizer.bpe import Tokenizer

        return write_shards(recipe.shards, list(inputs), Tokenizer.load(tokenizer), out)

    return Phase("shards", 1, recipe.shards.result_values(), (*inputs, tokenizer), out, work)


def pretrain(recipe: Recipe, run_dir: Path, allow_changes: Sequence[str] = ()) -> Summary:
    """The training phase alone, on the shards and the tokenizer of a run folder.

    `allow_changes`: recipe keys, such as `train.peak_lr`, that may differ from what the run began with.
    """
    with join(recipe.parallel) as ranks:
        check_training_inputs(run_dir)
        if ranks is not None and not ranks.is_first:
            return follow(recipe, run_dir, ranks)
        with recorded_recipe(recipe, run_dir):
            return run_phase(pretrain_phase(recipe, run_dir, allow_changes, ranks))


def check_training_inputs(run_dir: Path) -> None:
    """Raises InputError when a run folder lacks the shards or the tokenizer."""
    for name in ("shards", "tokenizer"):
        if not (run_dir / name).is_dir():
            raise InputError(f"{run_dir / name}: no such folder; `tinyllama {name}` creates it")


def follow(recipe: Recipe, run_dir: Path, ranks: "Ranks") -> Summary:
    """What the other ranks do: train when rank 0, which alone reads and writes the run's files, calls them."""
    allowed = ranks.await_call()
    if allowed is not None:
        from tinyllama.train.trainer import pretrain

        pretrain(recipe.llama_config(), recipe.train, run_dir, set(allowed), ranks, recipe.parallel.threads)
    return {}


def pretrain_phase(
    recipe: Recipe, run_dir: Path, allow_changes: Sequence[str] = (), ranks: "Ranks | None" = None
) -> Phase:
    """Token shards to checkpoints. Raises RecipeError when a key to allow is unknown or can never change."""
    config = recipe.llama_config()

    def work(out: Path) -> Summary:
        from tinyllama.train.trainer import pretrain

        allowed = allowed_changes(out)
        if ranks is not None:
            ranks.call(sorted(allowed))
        return pretrain(config, recipe.train, run_dir, allowed, ranks, recipe.parallel.threads)

    values = {"model": config.to_dict(), "train": recipe.train.result_values()}
    _check_allowed(allow_changes, {f"{section}.{key}" for section, inner in values.items() for key in inner})
    inputs = (run_dir / "shards", run_dir / "tokenizer")
    if recipe.train.init_from:
        inputs += (weights_of(Path(recipe.train.init_from)),)
    out = run_dir / "checkpoints"
    return Phase("pretrain", 1, values, inputs, out, work, keeps_changed=True, allowed_changes=tuple(allow_changes))


def _check_allowed(keys: Sequence[str], known: set[str]) -> None:
    for key in keys:
        if key in FIXED_ONCE_BEGUN:
            raise RecipeError(
                f"--allow-change {key}: cannot change, because the run's position in the data is counted in it"
            )
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            mend = f"did you mean {near[0]}?" if near else "write section.key, such as train.peak_lr"
            raise RecipeError(f"--allow-change {key}: not a key that changes the result of training; {mend}")


def evaluate_phase(recipe: Recipe, run_dir: Path) -> Phase:
    """Measure the finished model on held-out text."""

    def work(out: Path) -> Summary:
        from tinyllama.evaluation.run_evaluation import evaluate_run

        summary = evaluate_run(run_dir, recipe.evaluate)
        files.write_json(out, summary)
        return summary

    inputs = (run_dir / "checkpoints", run_dir / "shards", run_dir / "clean")
    present = tuple(path for path in inputs if path.exists())
    return Phase("evaluate", 1, recipe.evaluate.result_values(), present, run_dir / "evaluation.json", work)


def generate_phase(recipe: Recipe, run_dir: Path) -> Phase:
    """Generate sample texts with the finished model."""

    def work(out: Path) -> Summary:
        from tinyllama.exchange.open_model import open_model
        from tinyllama.generate.decode import generate

        opened = open_model(run_dir)
        samples = [{"prompt": text, **generate(opened, text, recipe.generate)} for text in recipe.generate.prompts]
        summary = {**samples[0], "samples": samples} if samples else {"samples": []}
        files.write_json(out, summary)
        return summary

    config = recipe.generate.result_values()
    return Phase("generate", 1, config, (run_dir / "checkpoints",), run_dir / "samples.json", work)


def export_phase(inputs: tuple[Path, ...], model: Path, out: Path, form: str = "hf", gguf_type: str = "f16") -> Phase:
    """A model as a Hugging Face folder or a GGUF file. `inputs`: what the fingerprint reads; `model`: any MODEL."""

    def work(out: Path) -> Summary:
        from tinyllama.exchange.open_model import open_model

        if form == "gguf":
            from tinyllama.exchange.gguf import export_gguf

            return export_gguf(open_model(model, device="cpu"), out, gguf_type)
        from tinyllama.exchange.hugging_face import export_hugging_face

        return export_hugging_face(open_model(model, device="cpu"), out)

    config = {"format": form} | ({"gguf_type": gguf_type} if form == "gguf" else {})
    return Phase("export", 1, config, inputs, out, work)


def weights_of(model: Path) -> Path:
    """What identifies a MODEL: its checkpoints when it is a run folder."""
    return model / "checkpoints" if (model / "checkpoints").is_dir() else model


def run_recipe(recipe: Recipe, run_dir: Path, allow_changes: Sequence[str] = ()) -> Summary:
    """Run every phase in `run_dir`, skipping finished ones, and write the report. Returns a summary by phase.

    `allow_changes`: as in `pretrain`.
    """
    summaries: Summary = {}
    with join(recipe.parallel) as ranks:
        if ranks is not None and not ranks.is_first:
            return follow(recipe, run_dir, ranks)
        with recorded_recipe(recipe, run_dir):
            for name, make in _chain(recipe, run_dir, allow_changes, ranks):
                log.info(f"── {name}")
                phase = make()
                if name in TRAINING_RESTS_ON and (run_dir / "checkpoints").is_dir():
                    phase = replace(phase, keeps_changed=True)
                summaries[name] = run_phase(phase)
    from tinyllama.report.run_report import write_report

    log.info(f"report: {write_report(run_dir)}")
    return summaries


def _chain(
    recipe: Recipe, run_dir: Path, allow_changes: Sequence[str], ranks: "Ranks | None"
) -> list[tuple[str, Callable[[], Phase]]]:
    """The phases in order; each is made once the one before it has finished, because its fingerprint reads that manifest."""
    sources, clean, tokenizer = recipe.sources, run_dir / "clean", run_dir / "tokenizer"
    if not (sources.seeds or sources.documentation_site or sources.paths):
        raise RecipeError("sources: nothing to read; give sources.seeds (URLs) or sources.paths (files or folders)")
    crawls = bool(sources.seeds or sources.documentation_site)
    inputs = (*([run_dir / "crawl"] if crawls else []), *(Path(path) for path in sources.paths))
    export_inputs = (run_dir / "checkpoints", run_dir / "evaluation.json")
    chain: list[tuple[str, Callable[[], Phase]]] = [
        ("crawl", lambda: crawl_phase(recipe, run_dir / "crawl")),
        ("clean", lambda: clean_phase(recipe, inputs, clean, run_dir / "documents")),
        ("tokenizer", lambda: tokenizer_phase(recipe, (clean,), tokenizer)),
        ("shards", lambda: shards_phase(recipe, (clean,), tokenizer, run_dir / "shards")),
        ("pretrain", lambda: pretrain_phase(recipe, run_dir, allow_changes, ranks)),
        ("evaluate", lambda: evaluate_phase(recipe, run_dir)),
        ("generate", lambda: generate_phase(recipe, run_dir)),
        ("export", lambda: export_phase(export_inputs, run_dir, run_dir / "model")),
    ]
    return chain if crawls else chain[1:]


@contextmanager
def recorded_recipe(recipe: Recipe, run_dir: Path) -> Iterator[None]:
    """Write the resolved recipe and the library versions to `run_dir/recipe.toml` before a run works.

    When the run is refused, the recipe that was there before is restored.
    """
    if run_dir.exists() and not run_dir.is_dir():
        raise InputError(f"{run_dir}: not a folder; choose another --run-dir")
    path = run_dir / "recipe.toml"
    is_new, before = not run_dir.exists(), path.read_text(encoding="utf-8") if path.exists() else None
    known = "\n".join(f"# {name} {version}" for name, version in versions().items())
    _write(path, f"# Every value of this run, made with\n{known}\n\n{to_toml(recipe)}")
    try:
        yield
    except RunStoppedError:
        raise
    except TinyllamaError:
        if before is not None:
            _write(path, before)
        elif is_new and list(run_dir.iterdir()) == [path]:
            path.unlink()
            run_dir.rmdir()
        raise


def _write(path: Path, text: str) -> None:
    with files.atomic_file(path, "w") as file:
        file.write(text)
