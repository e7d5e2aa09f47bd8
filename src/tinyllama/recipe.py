"""A recipe holds the settings of every phase: a TOML file or a packaged one, and `key=value` overrides on top."""

import difflib
import json
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError, model_validator

from tinyllama.cleaning.clean_config import CleanConfig
from tinyllama.config import Config, setting
from tinyllama.errors import RecipeError
from tinyllama.evaluation.evaluate_config import EvaluateConfig
from tinyllama.generate.generate_config import GenerateConfig
from tinyllama.model.llama_config import PRESETS, LlamaConfig, preset
from tinyllama.parallel.layout import Layout, ParallelConfig, check_layout
from tinyllama.shards.shards_config import ShardsConfig
from tinyllama.sources.sources_config import SourcesConfig
from tinyllama.tokenizer.tokenizer_config import TokenizerConfig
from tinyllama.train.train_config import TrainConfig, check_fp8_widths, refuse_what_needs_whole_networks


class ModelConfig(Config):
    """`[model]`: a preset, and values that override it (null: the preset's)."""

    preset: str = setting("tinyllama-1.1b", f"One of {', '.join(PRESETS)}.")
    vocab_size: int | None = setting(None, "Rows of the embedding; default: tokenizer.vocab_size.", ge=1)
    dim: int | None = setting(None, "Model dimension.", ge=1)
    n_layers: int | None = setting(None, "Layers.", ge=1)
    n_heads: int | None = setting(None, "Query heads.", ge=1)
    n_kv_heads: int | None = setting(None, "Key and value heads.", ge=1)
    head_dim: int | None = setting(None, "Dimension of a head; default dim / n_heads.", ge=2)
    ffn_dim: int | None = setting(None, "Inner dimension of the feed-forward.", ge=1)
    embedding_dim: int | None = setting(None, "Dimension of the embeddings, if other than dim.", ge=1)
    tied_head: bool | None = setting(None, "Whether the head shares the embedding's matrix.")
    rope_theta: float | None = setting(None, "Base of the rotary angles.", gt=0)
    rope_scaling: str | None = setting(None, "Scaling of the rotary angles: none, linear or llama3.")
    rope_factor: float | None = setting(None, "How many times longer the scaling makes the context.", ge=1)
    rope_low_freq_factor: float | None = setting(None, "llama3 scaling: pairs of lower frequency are scaled.", gt=0)
    rope_high_freq_factor: float | None = setting(None, "llama3 scaling: pairs of higher frequency stay.", gt=0)
    rope_original_seq_len: int | None = setting(None, "llama3 scaling: the context length before it.", ge=1)
    norm_eps: float | None = setting(None, "Epsilon of the norms.", gt=0)
    dropout: float | None = setting(None, "Dropout after the embedding and in the residual stream.", ge=0, lt=1)
    attention_dropout: float | None = setting(None, "Dropout of attention weights.", ge=0, lt=1)

    @model_validator(mode="after")
    def _preset_is_known(self) -> Self:
        if self.preset not in PRESETS:
            raise ValueError(f"preset: unknown {self.preset!r}{_nearest(self.preset, list(PRESETS))}")
        return self


class Recipe(Config):
    """All settings of a run."""

    sources: SourcesConfig = SourcesConfig()
    clean: CleanConfig = CleanConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    shards: ShardsConfig = ShardsConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    parallel: ParallelConfig = ParallelConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    generate: GenerateConfig = GenerateConfig()

    @model_validator(mode="after")
    def _network_is_possible(self) -> Self:
        try:
            self.llama_config()
        except ValueError as error:
            raise ValueError(f"model.{error}") from None
        return self

    @model_validator(mode="after")
    def _ranks_share_evenly(self) -> Self:
        train, parallel = self.train, self.parallel
        if train.deterministic_reduction and not parallel.is_model_parallel:
            self.layout()  # the message about its lanes says more than those of check_layout
        model, micro_batch_tokens = self.llama_config(), train.micro_batch_size * train.seq_len
        check_layout(model, parallel, micro_batches=train.micro_batches_per_step, micro_batch_tokens=micro_batch_tokens)
        if train.precision == "fp8":
            check_fp8_widths(model, micro_batch_tokens, parallel.tensor)
        self.layout()
        if parallel.is_model_parallel:
            refuse_what_needs_whole_networks(train, parallel)
        return self

    def layout(self) -> Layout:
        """Which rank computes which sequences of a step."""
        return self.train.layout(self.parallel.data_ranks)

    def llama_config(self) -> LlamaConfig:
        """The model that `[model]` describes, with the tokenizer's vocabulary size and the training context."""
        given = {
            name: value for name, value in self.model.model_dump().items() if value is not None and name != "preset"
        }
        given.setdefault("vocab_size", self.tokenizer.vocab_size)
        return preset(self.model.preset, seq_len=self.train.seq_len, **given)


def packaged_recipes() -> list[str]:
    """Names of the packaged recipes, which can be given in place of a path."""
    folder = resources.files("tinyllama") / "recipes"
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


def load_recipe(name: str | None, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe by path or packaged name (None: the defaults), apply `key=value` overrides, check everything.

    Raises RecipeError with one line that names the file, the key, the value and the fix.
    """
    origin, values = _read(name)
    for override in overrides or []:
        _override(values, override)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(_explain(error, origin)) from None


def to_toml(recipe: Recipe) -> str:
    """The resolved recipe with every value of every section; values that are not set are omitted."""
    lines = []
    for section, values in recipe.model_dump().items():
        lines += [
            f"[{section}]",
            *(f"{key} = {_toml(value)}" for key, value in values.items() if value is not None),
            "",
        ]
    return "\n".join(lines)


def _read(name: str | None) -> tuple[str, dict[str, Any]]:
    if name is None:
        return "command line", {}
    if name in packaged_recipes():
        origin, data = f"recipe {name}", (resources.files("tinyllama") / "recipes" / f"{name}.toml").read_bytes()
    else:
        path = Path(name)
        try:
            origin, data = str(path), path.read_bytes()
        except FileNotFoundError:
            known = packaged_recipes()
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            meant = f" Did you mean {near[0]}?" if near else ""
            raise RecipeError(f"no recipe {name!r}: no such file.{meant} Packaged: {', '.join(known)}") from None
        except OSError as error:
            raise RecipeError(f"{name}: cannot be read ({error.strerror})") from None
    try:
        return origin, tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{origin}: not valid TOML ({error})") from None


def _override(values: dict[str, Any], override: str) -> None:
    """Put one `section.key=value` into `values`; the value is TOML, or else a plain string."""
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or len(keys) != 2:
        raise RecipeError(f"{override!r}: not an override; write section.key=value, such as train.peak_lr=3e-4")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    section = values.setdefault(keys[0], {})
    if isinstance(section, dict):  # anything else is refused when the whole recipe is validated
        section[keys[1]] = value


def _explain(error: ValidationError, origin: str) -> str:
    """The first error of a recipe as one line."""
    fault = error.errors()[0]
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        *section, unknown = [str(part) for part in fault["loc"]]
        config: Any = Recipe.model_fields[section[0]].annotation if section else Recipe
        return f"{origin}: unknown key {key}{_nearest(unknown, list(config.model_fields), '.'.join(section))}"
    if fault["type"] == "value_error":
        prefix = f"{key}." if key else ""
        return f"{origin}: {prefix}{fault.get('ctx', {}).get('error')}"
    if fault["type"] == "model_type":
        return f"{origin}: {key} = {_toml(fault['input'])} is a value in place of a section; write [{key}] and its keys"
    message = fault["msg"].removeprefix("Input ")
    return f"{origin}: {key} = {_toml(fault['input'])} {message}"


def _nearest(name: str, known: list[str], section: str = "") -> str:
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    prefix = f"{section}." if section else ""
    return f", did you mean {prefix}{found[0]}?" if found else f"; known: {', '.join(sorted(known))}"


def _toml(value: Any) -> str:
    """A value in TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    text = json.dumps(str(value), ensure_ascii=False)
    return text.replace("\x7f", "\\u007f")  # TOML has JSON's escapes, and also escapes DEL
