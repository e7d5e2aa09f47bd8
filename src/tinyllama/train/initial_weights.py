"""Loads the weights of an existing model in place of random ones."""

from pathlib import Path

from torch import Tensor

from tinyllama import log
from tinyllama.errors import InputError, RecipeError
from tinyllama.exchange.open_model import open_model
from tinyllama.model.llama_config import LlamaConfig
from tinyllama.tokenizer.bpe import Tokenizer

# What a weight's shape and meaning depend on; context, dropout and rotary angles may change.
SHAPE = ("vocab_size", "dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "ffn_dim", "embedding_dim", "tied_head")
MAY_DIFFER = ("rope_theta", "rope_scaling", "rope_factor", "norm_eps")


def load_initial_weights(config: LlamaConfig, tokenizer: Tokenizer, init_from: str) -> dict[str, Tensor]:
    """The weights of the MODEL `init_from`, in host memory, for a network of `config`.

    Raises RecipeError when the recipe's network or the run's tokenizer is another than the MODEL's, or there is no MODEL.
    """
    try:
        opened = open_model(Path(init_from), "cpu")
    except InputError as error:
        raise RecipeError(f"train.init_from: {error}") from None
    for name in SHAPE:
        ours, theirs = getattr(config, name), getattr(opened.config, name)
        if ours != theirs:
            raise RecipeError(f"model.{name}: {ours}, but train.init_from {init_from} has {theirs}; set it to that")
    _check_vocabulary(tokenizer, opened.tokenizer, init_from)
    for name in MAY_DIFFER:
        ours, theirs = getattr(config, name), getattr(opened.config, name)
        if ours != theirs:
            log.warn(f"model.{name}: {ours} from now on; {init_from} was trained with {theirs}")
    log.info(f"pretrain: weights from {init_from}")
    return {name: parameter.detach() for name, parameter in opened.model.named_parameters()}


def _check_vocabulary(ours: Tokenizer, theirs: Tokenizer, init_from: str) -> None:
    """An id must mean the same token to the shards and to the weights."""
    mend = "make tokenizer/ of the run folder and the shards with the MODEL's own tokenizer"
    if ours.vocab_size != theirs.vocab_size:
        raise RecipeError(
            f"train.init_from: {init_from} has {theirs.vocab_size} tokens, the run's tokenizer {ours.vocab_size}; {mend}"
        )
    for token_id in range(ours.vocab_size):
        if ours.token(token_id) != theirs.token(token_id):
            tokens = f"{theirs.token(token_id)!r} in {init_from}, {ours.token(token_id)!r} in the run's tokenizer"
            raise RecipeError(f"train.init_from: id {token_id} is {tokens}; {mend}")
