"""fp8 products need widths that are multiples of 16, in each slice."""

import pytest

from tinyllama.errors import RecipeError
from tinyllama.model.llama_config import PRESETS
from tinyllama.recipe import load_recipe
from tinyllama.train.fp8_widths import check_fp8_widths


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
