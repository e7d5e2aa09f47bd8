"""The command line. Each command reads its options, calls a phase or a function, and prints the result.

Progress goes to stderr and the result to stdout; with `--json` stdout is exactly one JSON object.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from tinyllama.bench.bench_command import bench
from tinyllama.commands.content_commands import explain, score_safety, train_safety
from tinyllama.commands.drill_command import drill
from tinyllama.commands.evaluate_commands import evaluate, scorecard
from tinyllama.commands.options import (
    AllowChange,
    Dtype,
    Inputs,
    Json,
    Model,
    OtherRecipe,
    Out,
    Overrides,
    RecipeName,
    RunDir,
    TokenizerPath,
    fertility_table,
    json_lines,
    plain_value,
    print_json,
    show,
    show_texts,
    split_overrides,
    split_paths,
)
from tinyllama.commands.plan_command import plan
from tinyllama.errors import InputError
from tinyllama.phase_runner import cpu_seconds, run_phase

app = typer.Typer(
    name="tinyllama",
    help="Pre-train a small language model from scratch: crawl, clean, tokenize, train, evaluate, export.",
    epilog="Start with: tinyllama quickstart",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    add_completion=False,
)
tokenizer_app = typer.Typer(help="Train a tokenizer; encode and decode with one.", no_args_is_help=True)
app.add_typer(tokenizer_app, name="tokenizer")
app.command("train-safety")(train_safety)
app.command("score-safety")(score_safety)
app.command("explain")(explain)
app.command()(evaluate)
app.command()(scorecard)
app.command("drill")(drill)
app.command()(plan)

# -- every phase -------------------------------------------------------------------------------------------------------


@app.command()
def quickstart(
    run_dir: Annotated[Path, typer.Option("--run-dir")] = Path("runs/quickstart"), as_json: Json = False
) -> None:
    """Run every phase on real text, on a CPU, in minutes: from a web site to generated text.

    Example: tinyllama quickstart --run-dir runs/first
    """
    _run_all("quickstart", run_dir, [], as_json)


@app.command()
def run(
    recipe: RecipeName,
    overrides: Overrides = None,
    run_dir: RunDir = None,
    allow_change: AllowChange = None,
    as_json: Json = False,
) -> None:
    """Run every phase of a recipe, skipping finished ones.

    Example: tinyllama run small-120m 'sources.paths=["~/texts"]' train.steps=2000
    """
    _run_all(recipe, run_dir or Path("runs") / Path(recipe).stem, overrides or [], as_json, allow_change or [])


def _run_all(name: str, run_dir: Path, overrides: list[str], as_json: bool, allow_changes: Sequence[str] = ()) -> None:
    from tinyllama.phases import run_recipe
    from tinyllama.recipe import load_recipe

    started = time.monotonic()
    summaries = run_recipe(load_recipe(name, overrides), run_dir, allow_changes)
    result = {**summaries, "run_dir": str(run_dir), "seconds": round(time.monotonic() - started, 1)}
    if as_json:
        print_json(result)
        return
    for name, summary in summaries.items():
        typer.echo(f"\n{name}")
        typer.echo("\n".join(f"  {key}: {plain_value(value)}" for key, value in summary.items() if key != "samples"))
    typer.echo(f"\n{run_dir}: {result['seconds']} s; the report is {run_dir / 'report.html'}")


# -- data --------------------------------------------------------------------------------------------------------------


@app.command()
def crawl(
    urls: Annotated[list[str], typer.Argument(metavar="URL...", help="Seed URLs, and recipe values as KEY=VALUE.")],
    out: Out,
    max_pages: Annotated[
        int | None, typer.Option(help="Stop after this many stored pages; 0: no limit.", min=0)
    ] = None,
    allow_private: Annotated[list[str] | None, typer.Option(help="HOST:PORT of a private address to allow.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be fetched; fetch only robots.txt.")
    ] = False,
    recipe: OtherRecipe = None,
    as_json: Json = False,
) -> None:
    """Crawl web pages into WARC files; obeys robots.txt, filters by domain and length, can be resumed.

    Example: tinyllama crawl https://docs.example.org/ --out crawl --max-pages 1000
    """
    from tinyllama.phases import crawl_phase
    from tinyllama.recipe import load_recipe

    seeds, overrides = split_overrides(urls)
    overrides += [f"sources.seeds={json.dumps(seeds, ensure_ascii=False)}"] if seeds else []
    overrides += [f"sources.allow_private={json.dumps(allow_private)}"] if allow_private else []
    overrides += [f"sources.max_pages={max_pages}"] if max_pages is not None else []
    resolved = load_recipe(recipe, overrides)
    if dry_run:
        from tinyllama.sources.crawl import dry_run as look

        show(look(resolved.sources), as_json)
        return
    summary = run_phase(crawl_phase(resolved, out))
    show({**summary, "cpu_seconds": cpu_seconds()}, as_json)


@app.command()
def clean(inputs: Inputs, out: Out, recipe: OtherRecipe = None, as_json: Json = False) -> None:
    """Clean raw pages and documents into training documents. INPUT: WARC, parquet or JSON Lines, also s3:// and https://.

    Example: tinyllama clean crawl texts.jsonl.zst --out cleaned clean.min_words=30
    """
    from tinyllama.phases import clean_phase
    from tinyllama.recipe import load_recipe

    paths, overrides = split_paths(inputs)
    summary = run_phase(clean_phase(load_recipe(recipe, overrides), paths, out, out / "documents"))
    show({**summary, "cpu_seconds": cpu_seconds()}, as_json)


@tokenizer_app.command("train")
def tokenizer_train(
    inputs: Inputs,
    out: Out,
    vocab_size: Annotated[int | None, typer.Option(help="Vocabulary size; default 32,000.")] = None,
    recipe: OtherRecipe = None,
    as_json: Json = False,
) -> None:
    """Train byte pair encoding with byte fallback, as in Llama; reports how well it fits the text, by kind of source.

    Example: tinyllama tokenizer train cleaned --out tokenizer --vocab-size 32000
    """
    from tinyllama.phases import tokenizer_phase
    from tinyllama.recipe import load_recipe

    paths, overrides = split_paths(inputs)
    overrides += [f"tokenizer.vocab_size={vocab_size}"] if vocab_size is not None else []
    summary = run_phase(tokenizer_phase(load_recipe(recipe, overrides), paths, out))
    by_kind = {} if as_json else summary.pop("by_kind", {})
    show(summary, as_json)
    if by_kind:
        typer.echo(fertility_table(by_kind))


@tokenizer_app.command("encode")
def tokenizer_encode(tokenizer: TokenizerPath, as_json: Json = False) -> None:
    """Encode JSON strings, one per line of stdin, to token ids; no BOS or EOS is added.

    Example: echo '"Hello world"' | tinyllama tokenizer encode tokenizer --json
    """
    from tinyllama.exchange.open_model import open_tokenizer

    opened = open_tokenizer(tokenizer)
    texts = json_lines(str, "a JSON string")
    show({"ids": [opened.encode(text) for text in texts]}, as_json, plain="ids")


@tokenizer_app.command("decode")
def tokenizer_decode(tokenizer: TokenizerPath, as_json: Json = False) -> None:
    """Decode JSON lists of token ids, one per line of stdin.

    Example: echo '[1, 450, 29871]' | tinyllama tokenizer decode tokenizer
    """
    from tinyllama.exchange.open_model import open_tokenizer

    opened = open_tokenizer(tokenizer)
    lists = json_lines(list, "a list of ids, such as [1, 450]")
    if not all(isinstance(token_id, int) for ids in lists for token_id in ids):
        raise InputError("stdin: an id is not a whole number; write lists such as [1, 450]")
    show({"texts": [opened.decode(ids) for ids in lists]}, as_json, plain="texts")


@app.command()
def shards(
    inputs: Inputs,
    tokenizer: Annotated[Path, typer.Option("--tokenizer", help="A tokenizer folder or file.")],
    out: Out,
    recipe: OtherRecipe = None,
    as_json: Json = False,
) -> None:
    """Tokenize documents into token shards.

    Example: tinyllama shards cleaned --tokenizer tokenizer --out shards
    """
    from tinyllama.phases import shards_phase
    from tinyllama.recipe import load_recipe

    paths, overrides = split_paths(inputs)
    show(run_phase(shards_phase(load_recipe(recipe, overrides), paths, tokenizer, out)), as_json)


# -- the model ---------------------------------------------------------------------------------------------------------


@app.command()
def pretrain(
    recipe: RecipeName,
    overrides: Overrides = None,
    run_dir: RunDir = None,
    allow_change: AllowChange = None,
    as_json: Json = False,
) -> None:
    """Train the model; needs only shards/ and tokenizer/ of the run folder. A stopped run resumes by itself.

    Exit code 130 after Ctrl-C, 143 after SIGTERM, 75 at train.time_limit_minutes: saved; the same command resumes.

    Example: tinyllama pretrain small-120m --run-dir runs/mine train.peak_lr=3e-4

    On several devices: torchrun --nproc-per-node 4 -m tinyllama pretrain tinyllama-1b --run-dir runs/mine
    parallel.shard=2 parallel.tensor=2 (docs/parallel.md)
    """
    from tinyllama.phases import pretrain as run_pretrain
    from tinyllama.recipe import load_recipe

    run_dir = run_dir or Path("runs") / Path(recipe).stem
    show(run_pretrain(load_recipe(recipe, overrides), run_dir, allow_change or []), as_json)


@app.command()
def score(
    model: Model,
    text: Annotated[str, typer.Option("--text", help="The text; '-' reads stdin.")],
    as_json: Json = False,
) -> None:
    """Log-probability of a text, token by token.

    Example: tinyllama score runs/quickstart --text "Return the sum of the array."
    """
    from tinyllama.exchange.open_model import open_model
    from tinyllama.generate.text_score import score as score_text

    show(score_text(open_model(model), sys.stdin.read() if text == "-" else text), as_json)


@app.command()
def generate(
    model: Model,
    prompt: Annotated[list[str] | None, typer.Option(help="Text to continue; repeatable, decoded together.")] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always take the most likely token.")] = False,
    max_new_tokens: Annotated[int, typer.Option(help="Maximum number of new tokens per text; 0: none.")] = 128,
    temperature: Annotated[float, typer.Option(help="Divides the logits; 0: greedy.")] = 0.8,
    top_k: Annotated[int, typer.Option(help="Keep the k most likely tokens; 0: all.")] = 0,
    top_p: Annotated[
        float, typer.Option(help="Keep the most likely tokens whose probabilities add up to this.")
    ] = 0.95,
    min_p: Annotated[
        float, typer.Option(help="Keep tokens with at least this times the top token's probability; 0: all.")
    ] = 0.0,
    repetition_penalty: Annotated[
        float, typer.Option(help="Values above 1 penalise tokens that are already in the text.")
    ] = 1.0,
    stop: Annotated[
        list[str] | None, typer.Option(help="A string that ends the text, not part of it; repeatable.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of sampling; text n uses seed + n.")] = 1,
    num_samples: Annotated[int, typer.Option(help="Texts per prompt.", min=1)] = 1,
    dtype: Annotated[Dtype, typer.Option(help="Number format; auto: bf16 on a GPU, else fp32.")] = "auto",
    as_json: Json = False,
) -> None:
    """Generate text (streamed). An empty prompt starts from BOS.

    Example: tinyllama generate runs/quickstart --prompt "Return the" --max-new-tokens 50 --stop "."
    """
    values = {
        "max_new_tokens": max_new_tokens,
        "temperature": 0.0 if greedy else temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "stop": json.dumps(stop or [], ensure_ascii=False),
        "seed": seed,
    }
    from tinyllama.exchange.open_model import open_model
    from tinyllama.generate import decode
    from tinyllama.recipe import load_recipe

    config = load_recipe(None, [f"generate.{key}={value}" for key, value in values.items()]).generate
    opened = open_model(model, dtype=decode.number_format(dtype))
    prompts = [text for text in prompt or [""] for _ in range(num_samples)]
    if len(prompts) > 1:
        show_texts(decode.generate_many(opened, prompts, config), as_json)
    elif as_json:
        print_json(decode.generate(opened, prompts[0], config))
    else:
        typer.echo(prompts[0], nl=False)
        decode.generate(opened, prompts[0], config, on_text=lambda piece: typer.echo(piece, nl=False))
        typer.echo()


@app.command()
def export(
    model: Model,
    out: Out,
    form: Annotated[
        Literal["hf", "gguf"], typer.Option("--format", help="hf: a Hugging Face folder; gguf: for llama.cpp.")
    ] = "hf",
    gguf_type: Annotated[
        Literal["f32", "f16", "bf16", "q8_0"], typer.Option(help="Number format of the matrices in a GGUF file.")
    ] = "f16",
    as_json: Json = False,
) -> None:
    """Export a model as a Hugging Face folder for Transformers, or as a GGUF file for llama.cpp.

    Example: tinyllama export runs/quickstart --out gguf --format gguf --gguf-type q8_0
    """
    from tinyllama.phases import export_phase, weights_of

    show(run_phase(export_phase((weights_of(model),), model, out, form, gguf_type)), as_json)


# -- report ------------------------------------------------------------------------------------------------------------


@app.command()
def report(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")], as_json: Json = False
) -> None:
    """Write one HTML page about a run from its files.

    Example: tinyllama report runs/quickstart
    """
    from tinyllama.report.run_report import write_report

    show({"report": str(write_report(run_dir))}, as_json)


app.command()(bench)
