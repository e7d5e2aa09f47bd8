"""fp8 products need widths that are multiples of 16, in each slice."""

import pytest

from tinyllama.errors import RecipeError
from tinyllama.model.llama_config import PRESETS, preset
from tinyllama.recipe import load_recipe
from tinyllama.train.train_config import check_fp8_widths


@pytest.mark.parametrize("name", ["tinyllama-1.1b", "article-1.1b"])
@pytest.mark.parametrize("tensor", [1, 2, 4])
def test_presets_can_be_computed(name: str, tensor: int):
    check_fp8_widths(PRESETS[name], 16 * 2048, tensor)


def test_a_recipe_is_refused_with_the_arithmetic():
    fp8 = ["train.precision=fp8", "model.ffn_dim=5616"]
    load_recipe("tinyllama-1b", fp8)
    with pytest.raises(
        RecipeError,
        match=r"train\.precision: 'fp8' .* multiples of 16; .*\(model\.ffn_dim\) are 5616 / 2 tensor ranks = 2808; 'bf16'",
    ):
        load_recipe("tinyllama-1b", [*fp8, "parallel.tensor=2"])
    with pytest.raises(RecipeError, match=r"\(micro_batch_size x seq_len\) are 1000; 'bf16' would work"):
        load_recipe(
            "tinyllama-1b", [*fp8, "train.seq_len=1000", "train.micro_batch_size=1", "train.tokens_per_step=1000"]
        )


FITS = {"dim": 64, "n_heads": 4, "n_kv_heads": 2, "head_dim": 16, "ffn_dim": 96}  # heads 64, queries and the others 128


@pytest.mark.parametrize(
    ("changes", "tokens", "tensor", "words"),
    [
        ({}, 32, 1, ""),
        ({}, 32, 2, ""),
        ({"dim": 72}, 32, 1, r"residual stream \(model\.dim\) are 72; 'bf16'"),
        ({"dim": 48}, 32, 2, ""),  # the slices do not share it
        ({"n_heads": 2, "head_dim": 12, "n_kv_heads": 1}, 32, 1, r"heads \(model\.n_heads x head_dim\) are 24;"),
        ({"n_heads": 3, "n_kv_heads": 3}, 32, 2, r"heads \(model\.n_heads x head_dim\) are 48 / 2 tensor ranks = 24;"),
        ({"n_kv_heads": 1, "head_dim": 8}, 32, 2, r"values \(\(n_heads \+ 2 n_kv_heads\) x head_dim\) are 48 / 2 .* = 24;"),
        ({"ffn_dim": 88}, 32, 1, r"feed-forward \(model\.ffn_dim\) are 88;"),
        ({"ffn_dim": 80}, 32, 2, r"\(model\.ffn_dim\) are 80 / 2 tensor ranks = 40;"),
        ({}, 40, 1, r"micro-batch \(micro_batch_size x seq_len\) are 40;"),
        ({}, 16, 2, ""),
    ],
)  # fmt: skip
def test_each_width_alone(changes: dict[str, int], tokens: int, tensor: int, words: str):
    model = preset("tiny-2m", **(FITS | changes))
    if not words:
        check_fp8_widths(model, tokens, tensor)
        return
    with pytest.raises(ValueError, match=words):
        check_fp8_widths(model, tokens, tensor)
