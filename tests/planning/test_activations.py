from dataclasses import replace
from typing import Any

import pytest

from tinyllama.model.llama_config import PRESETS, LlamaConfig, preset
from tinyllama.planning.activations import Activations, chunk_bytes
from tinyllama.train.train_config import TrainConfig

TINYLLAMA, TINY = PRESETS["tinyllama-1.1b"], preset("tiny-2m", dim=256, ffn_dim=704)


def activations(
    model: LlamaConfig = TINYLLAMA, tensor: int = 1, *, seq_len: int = 2048, compiled: bool = True, on_gpu: bool = True,
    **values: Any,
) -> Activations:  # fmt: skip
    train = TrainConfig(seq_len=seq_len, micro_batch_size=1, tokens_per_step=seq_len, **values)
    return Activations(model, train, tensor, compiled, on_gpu)


def test_what_a_layer_keeps_by_hand():
    # 4 D + 4 H K + 4 G K + 4 H + 4 D + 8 + 6 F
    assert activations().saved() == 8192 + 8192 + 1024 + 128 + 8192 + 8 + 33_792 == 59_528
    # fp32, on a CPU: 8 D + 8 H K + 8 G K + 4 H + 8 D + 8 + 12 F
    small = activations(TINY, seq_len=256, precision="fp32", on_gpu=False)
    assert small.saved() == 2048 * 3 + 8 * 2 * 64 + 16 + 8 + 8448
    # fp16: the stream is fp32, what joins it is not
    assert activations(precision="fp16").saved() == 59_528 + 4096
    # fp8: inputs of products in one byte, the product of gate and up computed again
    assert activations(precision="fp8").saved() == 59_528 - 4096 - 11_264


def test_recompute_by_hand():
    # selective: all but the feed-forward's; full: what enters a layer
    assert activations(recompute="selective").saved() == 25_736
    assert activations(recompute="full").saved() == 8192


def test_the_layer_at_work_by_hand():
    # gradients of gate and up, and of the stream; and what is computed again
    assert activations().working() == 4 * 5632 + 4096
    assert activations(recompute="selective").working() == 4 * 5632 + 4096 + 33_792
    assert activations(recompute="full").working() == 4 * 5632 + 4096 + 51_336


def test_after_the_layers_by_hand():
    assert activations().after_layers() == 8192
    assert (
        activations(PRESETS["article-1.1b"]).after_layers() == 4 * 3072 + 4 * 1536
    )  # the head's projection, and its input


def test_slices_by_hand():
    # of 8192 at the beginning and in the middle, the gathered norms (4096 each) are whole on each rank
    assert activations(tensor=2).saved() == 2 * (2048 + 4096) + 4 + (9344 + 33_792) // 2
    assert activations(tensor=2, recompute="selective").saved() == (2048 + 4096) + 4096 + 4 + 9344 // 2
    assert activations(tensor=2, recompute="full").saved() == 4096


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("compiled", [True, False])
def test_slices_are_never_more_than_the_whole(precision: str, recompute: str, compiled: bool):
    whole, half = (
        activations(tensor=tensor, precision=precision, recompute=recompute, compiled=compiled).saved()
        for tensor in (1, 2)
    )
    assert whole / 2 <= half < whole


def test_dropped_attention_keeps_its_scores():
    dropped, plain = activations(replace(TINY, attention_dropout=0.1)), activations(TINY)
    assert dropped.saved() == plain.saved() + 10 * 4 * 2048
    assert activations(replace(TINY, dropout=0.1)).saved() == plain.saved() + 4 * 256


def test_fp32_on_a_gpu_writes_its_scores():
    on_gpu, on_cpu = (activations(precision="fp32", on_gpu=on_gpu) for on_gpu in (True, False))
    assert on_gpu.saved() - on_cpu.saved() == 4 * 32 * 2048 + 8 * 2048
    ungrouped = replace(TINYLLAMA, n_kv_heads=32)
    assert (
        activations(ungrouped, precision="fp32").saved()
        == activations(ungrouped, precision="fp32", on_gpu=False).saved()
    )


def test_chunks_of_logits_by_hand():
    assert chunk_bytes(TINY, 1000, "bf16") == 2 * 1000 * 4096
    assert chunk_bytes(TINY, 10_000, "bf16") == 2 * 2 * 8192 * 4096  # the chunk before is still there
    assert chunk_bytes(TINY, 1000, "fp32") == 2 * 4 * 1000 * 4096
    # slices of the vocabulary: in fp32 too
    assert chunk_bytes(TINY, 1000, "bf16", tensor=4) == 6 * 1000 * 1024
    assert chunk_bytes(TINY, 1000, "fp32", tensor=4) == 4 * 1000 * 1024


# -- against what autograd keeps ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_layers_that_are_not_compiled_keep_just_what_autograd_keeps(precision: str, recompute: str):
    """Bytes of one layer on a CPU: the difference between a network of three and one of two."""
    import torch

    from tinyllama.model.llama import Llama
    from tinyllama.model.packed_llama import PackedLlama
    from tinyllama.train.precision import FORMATS

    model = LlamaConfig(vocab_size=64, dim=96, n_layers=2, n_heads=6, n_kv_heads=2, ffn_dim=208)
    B, T = 2, 32

    def kept_bytes(n_layers: int) -> int:
        llama = Llama(replace(model, n_layers=n_layers))
        llama.init_weights(0)
        network = PackedLlama(llama, *FORMATS[precision], recompute=recompute)  # pyright: ignore[reportArgumentType]
        tensors = [*llama.parameters(), *network.parameters()]
        own = {tensor.untyped_storage().data_ptr() for tensor in tensors}
        kept: dict[int, torch.UntypedStorage] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            network.hidden(torch.zeros(B, T, dtype=torch.int64))
        return sum(storage.nbytes() for storage in kept.values())

    planned = activations(model, seq_len=T, precision=precision, recompute=recompute, compiled=False, on_gpu=False)
    assert kept_bytes(3) - kept_bytes(2) == B * T * planned.saved()
