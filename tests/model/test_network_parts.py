"""What the network is made of, part by part: shapes, first values, presets, places of tokens, formats."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.tiny_model import random_tokens, tiny_config, tiny_llama
from tinyllama.model import packed_llama
from tinyllama.model.attention import attend, attend_causal, attend_reference, causal_mask, fastest_first
from tinyllama.model.dropout import dropout, sample_keys
from tinyllama.model.llama import Llama, RMSNorm, initial_values
from tinyllama.model.llama_config import PRESETS, LlamaConfig, preset
from tinyllama.model.packed_llama import PackedLayer, PackedLlama, rms_norm
from tinyllama.model.partition import Collectives, Partition
from tinyllama.model.rotary import rotary_frequencies, rotary_table

# -- sizes -------------------------------------------------------------------------------------------------------------


def test_the_values_of_every_preset():
    """As published: TinyLlama's paper, the article's table, and our own two."""
    common = {
        "rope_theta": 10_000.0, "rope_scaling": "none", "rope_factor": 1.0, "rope_low_freq_factor": 1.0,
        "rope_high_freq_factor": 4.0, "rope_original_seq_len": 8192, "norm_eps": 1e-5, "dropout": 0.0,
        "attention_dropout": 0.0,
    }  # fmt: skip
    keys = (
        "vocab_size", "seq_len", "dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "ffn_dim", "embedding_dim",
        "tied_head",
    )  # fmt: skip
    sizes = {
        "tinyllama-1.1b": (32_000, 2048, 2048, 22, 32, 4, 64, 5632, 2048, False),
        "article-1.1b": (32_000, 2048, 3072, 24, 16, 4, 192, 1920, 1536, False),
        "small-120m": (32_000, 1024, 768, 12, 12, 4, 64, 2048, 768, False),
        "tiny-2m": (4096, 256, 192, 4, 4, 2, 48, 512, 192, True),
    }
    assert {name: config.to_dict() for name, config in PRESETS.items()} == {
        name: common | dict(zip(keys, values, strict=True)) for name, values in sizes.items()
    }


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("tinyllama-1.1b", {"dim": 1024}, (1024, 32, 1024)),
        ("tinyllama-1.1b", {"n_heads": 16}, (2048, 128, 2048)),
        ("tinyllama-1.1b", {"dim": 1024, "head_dim": 64}, (1024, 64, 1024)),
        ("tinyllama-1.1b", {"dim": 1024, "embedding_dim": 512}, (1024, 32, 512)),
        ("tinyllama-1.1b", {"embedding_dim": 512}, (2048, 64, 512)),
        ("tinyllama-1.1b", {"ffn_dim": 8}, (2048, 64, 2048)),
        ("article-1.1b", {"dim": 1536}, (1536, 96, 1536)),
        ("article-1.1b", {"dim": 2048}, (2048, 128, 1536)),  # keeps its narrow embeddings
    ],
)
def test_a_preset_with_other_values(name: str, changes: dict[str, int], expected: tuple[int, int, int]):
    config = preset(name, **changes)
    assert (config.dim, config.head_dim, config.embedding_dim) == expected
    with pytest.raises(KeyError):
        preset("no such")


@pytest.mark.parametrize(
    ("values", "is_allowed"),
    [
        ({"vocab_size": 1, "seq_len": 1, "dim": 2, "n_layers": 1, "n_heads": 1, "n_kv_heads": 1, "ffn_dim": 1}, True),
        *[({name: 0}, False) for name in ("vocab_size", "seq_len", "dim", "n_layers", "n_heads", "n_kv_heads", "ffn_dim")],
        ({"dropout": 0.999, "attention_dropout": 0.999}, True), ({"dropout": 1.0}, False), ({"dropout": -0.1}, False),
        ({"attention_dropout": 1.0}, False), ({"attention_dropout": -0.1}, False),
        ({"head_dim": 2}, True), ({"head_dim": 3}, False),
        ({"rope_factor": 1.0}, True), ({"rope_factor": 0.99}, False), ({"rope_factor": float("nan")}, False),
        ({"rope_low_freq_factor": 0.0}, False), ({"rope_low_freq_factor": 3.9}, True),
        ({"rope_low_freq_factor": 4.0}, False), ({"rope_high_freq_factor": 1.0}, False),
        ({"rope_original_seq_len": 1}, True), ({"rope_original_seq_len": 0}, False),
        *[({"rope_scaling": name}, True) for name in ("none", "linear", "llama3")], ({"rope_scaling": "yarn"}, False),
    ],
)  # fmt: skip
def test_the_edges_of_what_a_network_can_be(values: dict[str, Any], is_allowed: bool):
    if is_allowed:
        LlamaConfig(**values)
        return
    with pytest.raises(ValueError, match=rf"{next(iter(values))}|rope_low_freq_factor"):
        LlamaConfig(**values)


def test_parameters_by_part():
    config = tiny_config(embedding_dim=16, head_dim=6)
    assert config.parameter_counts() == {
        "embedding": 512 * 16, "projections": 2 * 32 * 16, "attention": 2 * 32 * 6 * (2 * 4 + 2 * 2),
        "feed_forward": 2 * 3 * 32 * 48, "norms": 2 * 2 * 32 + 32, "head": 512 * 16,
    }  # fmt: skip
    assert tiny_config(tied_head=True).parameter_counts()["head"] == 0
    assert tiny_config().parameter_counts()["projections"] == 0
    N = config.n_matmul_parameters
    assert sum(config.parameter_counts().values()) - 512 * 16 == N
    assert config.flops_per_token() == config.flops_per_token("causal", 48) == 6 * N + 6 * 2 * 24 * 48
    assert config.flops_per_token("palm", 10) == 6 * N + 12 * 2 * 24 * 10


# -- first values ------------------------------------------------------------------------------------------------------


def test_the_network_has_these_tensors_and_no_biases():
    model = Llama(tiny_config(embedding_dim=16, head_dim=6))
    layer = {
        "attention.q.weight": (24, 32), "attention.k.weight": (12, 32), "attention.v.weight": (12, 32),
        "attention.o.weight": (32, 24), "feed_forward.gate.weight": (48, 32), "feed_forward.up.weight": (48, 32),
        "feed_forward.down.weight": (32, 48), "attention_norm.weight": (32,), "feed_forward_norm.weight": (32,),
    }  # fmt: skip
    wanted = {f"layers.{number}.{name}": shape for number in range(2) for name, shape in layer.items()}
    wanted |= {"embedding.weight": (512, 16), "head.weight": (512, 16), "norm.weight": (32,)}
    wanted |= {"embedding_projection.weight": (32, 16), "head_projection.weight": (16, 32)}
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == wanted


def test_first_values_are_drawn_in_the_order_of_names():
    config = tiny_config(embedding_dim=16, n_layers=3)
    shapes = {name: value.shape for name, value in Llama(config).named_parameters()}
    generator = torch.Generator().manual_seed(9)
    found = dict(initial_values(config, shapes, 9))
    assert list(found) == sorted(shapes)
    for name in sorted(shapes):
        if len(shapes[name]) == 1:
            wanted = torch.ones(shapes[name])
        else:
            narrow = name.endswith(("o.weight", "down.weight"))
            std = 1 / (math.sqrt(32) * 3) if narrow else math.sqrt(2 / (5 * shapes[name][1]))
            wanted = torch.empty(shapes[name]).normal_(0, std, generator=generator)
        torch.testing.assert_close(found[name], wanted, msg=name)
    model = Llama(config)
    model.init_weights(9)
    assert all(torch.equal(value, found[name]) for name, value in model.named_parameters())


# -- norms, positions, caches ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eps", [1e-5, 0.5])
def test_both_norms_by_hand(eps: float):
    x, weight = torch.tensor([[3.0, 4.0, 0.0, 0.0], [0.1, 0.0, 0.0, 0.0]]), torch.tensor([1.0, 2.0, 3.0, 4.0])
    wanted = torch.stack(
        [row / math.sqrt(square + eps) * weight for row, square in zip(x, (6.25, 0.0025), strict=True)]
    )
    norm = RMSNorm(4, eps)
    norm.weight = nn.Parameter(weight)
    torch.testing.assert_close(norm(x), wanted)
    torch.testing.assert_close(rms_norm(x, weight, eps, torch.float32), wanted)
    short = rms_norm(x.bfloat16(), weight, eps, torch.bfloat16)
    assert short.dtype == torch.bfloat16
    torch.testing.assert_close(short, wanted.bfloat16(), rtol=0.01, atol=0)


@pytest.mark.parametrize("packed", [False, True])
def test_every_norm_has_the_network_s_eps(packed: bool):
    near, far = (tiny_llama(dtype=torch.float64, norm_eps=eps) for eps in (1e-5, 2.0))
    norms = [far.norm, *(norm for layer in far.layers for norm in (layer.attention_norm, layer.feed_forward_norm))]
    assert {norm.eps for norm in norms if isinstance(norm, RMSNorm)} == {2.0}
    tokens = random_tokens(2, 8)
    if packed:
        torch.testing.assert_close(PackedLlama(far).hidden(tokens), far.hidden(tokens), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(near.hidden(tokens), far.hidden(tokens), rtol=0.1)


class Kept:
    """Keys and values of all tokens so far, by layer."""

    def __init__(self) -> None:
        self.held: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def n_tokens(self) -> int:
        return self.held[0][0].shape[2] if self.held else 0

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if layer in self.held:
            k, v = (torch.cat(pair, dim=2) for pair in zip(self.held[layer], (k, v), strict=True))
        self.held[layer] = k, v
        return k, v


@pytest.mark.parametrize("sizes", [(5, 1, 6), (1, 1, 10), (12,), (3, 9)])
def test_tokens_that_come_one_after_another_see_those_before_them(sizes: tuple[int, ...]):
    model, tokens, cache = tiny_llama(dtype=torch.float64), random_tokens(2, 12), Kept()
    found = torch.cat([model(part, cache=cache) for part in tokens.split(sizes, dim=1)], dim=1)
    torch.testing.assert_close(found, model(tokens), rtol=1e-10, atol=1e-10)
    assert sorted(cache.held) == [0, 1]


def test_a_mask_reaches_every_layer():
    model, tokens = tiny_llama(dtype=torch.float64), random_tokens(1, 6)
    alone = torch.eye(6, dtype=torch.bool)[None, None]  # each token sees itself
    positions = torch.arange(6)[None]
    wanted = torch.cat([model(tokens[:, n : n + 1], positions[:, n : n + 1]) for n in range(6)], dim=1)
    torch.testing.assert_close(model(tokens, mask=alone), wanted, rtol=1e-10, atol=1e-10)


def test_products_under_autocast_have_rotary_angles_of_their_format():
    model, tokens = tiny_llama(), random_tokens(1, 6)
    assert Llama._compute_dtype(torch.ones(1)) == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert Llama._compute_dtype(torch.ones(1)) == torch.bfloat16
        assert torch.isfinite(model(tokens)).all()


# -- attention ---------------------------------------------------------------------------------------------------------


def test_kernels_are_tried_in_this_order():
    from torch.nn.attention import SDPBackend

    wanted = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    with fastest_first():
        assert torch._C._get_sdp_priority_order()[:4] == [int(kind.value) for kind in wanted]  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(("function", "lengths"), [(attend, (5, 5)), (attend, (2, 5)), (attend_causal, (5, 5))])
def test_each_group_of_heads_has_its_key_head(function: Callable[..., Tensor], lengths: tuple[int, int]):
    T, S = lengths
    q, k, v = (torch.randn(2, heads, n, 4, dtype=torch.float64) for heads, n in ((6, T), (2, S), (2, S)))
    found = function(q, k, v, *([None] if function is attend else []))
    for head in range(6):
        scores = q[:, head] @ k[:, head // 3].mT / 2
        weights = scores.masked_fill(~causal_mask(T, S, q.device), float("-inf")).softmax(-1)
        torch.testing.assert_close(found[:, head], weights @ v[:, head // 3], rtol=1e-10, atol=1e-10)


def test_dropped_attention_of_some_heads_is_that_of_all():
    q, k, v = (torch.randn(2, heads, 5, 4, dtype=torch.float64) for heads in (4, 2, 2))
    keys = sample_keys(1, 2, torch.arange(2))
    whole = attend_reference(q, k, v, None, 0.4, keys)
    assert not torch.allclose(whole, attend_reference(q, k, v, None))
    torch.testing.assert_close(attend_reference(q[:, 2:], k[:, 1:], v[:, 1:], None, 0.4, keys, 2), whole[:, 2:])
    assert attend_reference(q.float(), k.float(), v.float(), None).dtype == torch.float32


# -- the form that trains ----------------------------------------------------------------------------------------------


def test_formats_of_the_form_that_trains():
    plain, mixed = PackedLlama(tiny_llama()), PackedLlama(tiny_llama(), torch.float16, None)
    assert (plain.compute_dtype, plain.stream_dtype) == (torch.float32, torch.float32)
    assert (mixed.compute_dtype, mixed.stream_dtype) == (torch.float16, torch.float32)
    short = PackedLlama(tiny_llama(), None, torch.bfloat16)
    assert (short.compute_dtype, short.stream_dtype) == (torch.float32, torch.bfloat16)


def test_a_tied_head_s_copy_follows_the_embedding():
    network = PackedLlama(tiny_llama(tied_head=True), torch.bfloat16)
    with torch.no_grad():
        network.packed[0].master.fill_(2.0)
    network.refresh()
    assert network.output is network.packed[0]
    assert (network.output_weight == 2).all()
    assert network.output_weight.dtype == torch.bfloat16
    untied = PackedLlama(tiny_llama(), torch.bfloat16)
    assert untied.output is untied.packed[-1]
    assert untied.output.names == ("head.weight",)


def test_packed_parameters_and_where_their_leaves_are():
    network = PackedLlama(tiny_llama(embedding_dim=16))
    first = [
        ("embedding", ("embedding.weight",), (512,)),
        ("embedding_projection.weight", ("embedding_projection.weight",), (32,)),
        ("layers.0.attention_norm", ("layers.0.attention_norm.weight",), (32,)),
        ("layers.0.feed_forward_norm", ("layers.0.feed_forward_norm.weight",), (32,)),
        ("layers.0.qkv.weight", tuple(f"layers.0.attention.{name}.weight" for name in "qkv"), (32, 16, 16)),
        ("layers.0.o.weight", ("layers.0.attention.o.weight",), (32,)),
        ("layers.0.gate_up.weight", tuple(f"layers.0.feed_forward.{n}.weight" for n in ("gate", "up")), (48, 48)),
        ("layers.0.down.weight", ("layers.0.feed_forward.down.weight",), (32,)),
    ]
    assert [(entry.path, entry.names, entry.rows) for entry in network.packed[:8]] == first
    assert [entry.path for entry in network.packed[-3:]] == ["norm", "head_projection.weight", "head.weight"]
    assert all(network.get_parameter(entry.path) is entry.leaf for entry in network.packed)


def test_layers_are_compiled_whole_and_for_one_shape(monkeypatch: pytest.MonkeyPatch):
    given: list[Any] = []

    def of_function(function: Any, **how: Any) -> Any:
        given.append(("function", how))
        return function

    monkeypatch.setattr(packed_llama.torch, "compile", of_function)
    monkeypatch.setattr(PackedLayer, "compile", lambda self, **how: given.append(("layer", how)))
    network = PackedLlama(tiny_llama())
    network.compile()
    how = {"fullgraph": True, "dynamic": False}
    assert given == [("function", how), ("layer", how), ("layer", how)]
    assert network.hidden(random_tokens(1, 4)).shape == (1, 4, 32)


def test_parts_one_after_another_are_the_whole():
    """Two parts of a network of three layers, with dropout: numbers of layers go on."""
    rates: dict[str, Any] = {"dropout": 0.2, "attention_dropout": 0.2, "embedding_dim": 16}
    model, tokens = tiny_llama(dtype=torch.float64, n_layers=3, **rates), random_tokens(2, 8)
    keys = sample_keys(1, 2, torch.arange(2))
    wanted = PackedLlama(model).hidden(tokens, keys)
    stream = tokens
    for layers in (range(1), range(1, 3)):
        piece = tiny_llama(dtype=torch.float64, n_layers=len(layers), **rates)
        own = model.state_dict()
        for name in piece.state_dict():
            words = name.split(".")
            if words[0] == "layers":
                words[1] = str(layers.start + int(words[1]))
            piece.get_parameter(name).data.copy_(own[".".join(words)])
        partition = Partition(Collectives(), layers.start, layers.start == 0, layers.stop == 3, 8)
        stream = PackedLlama(piece, partition=partition).hidden(stream, keys)
    torch.testing.assert_close(stream, wanted, rtol=1e-12, atol=1e-12)


def test_an_uncut_layer_changes_nothing_between_its_products():
    slices, rows = Collectives(), torch.randn(2, 3, 4)
    assert (slices.is_sliced, slices.size, slices.first_head) == (False, 1, 0)
    assert slices.gather(rows) is slices.scatter(rows) is rows
    table = torch.randn(7, 4)
    assert torch.equal(slices.embed(torch.tensor([[3, 0]]), table), table[[3, 0]][None])
    keys = sample_keys(1, 2, torch.arange(2))
    assert torch.equal(slices.dropout(rows, 0.4, keys, 2, 3), dropout(rows, 0.4, keys, 2))
    partition = Partition(slices)
    assert (
        partition.first_layer,
        partition.is_first,
        partition.is_last,
        partition.seq_len,
        partition.keeps_masters,
    ) == (
        0,
        True,
        True,
        0,
        False,
    )


def test_the_feed_forward_is_gated_by_silu():
    model = tiny_llama(dtype=torch.float64)
    x = torch.randn(2, 3, 32, dtype=torch.float64)
    block: Any = model.layers[0].get_submodule("feed_forward")
    gate, up, down = (block.get_submodule(name).weight for name in ("gate", "up", "down"))
    gated = x @ gate.T
    torch.testing.assert_close(block(x), (gated * torch.sigmoid(gated) * (x @ up.T)) @ down.T)
    torch.testing.assert_close(F.silu(gated), gated * torch.sigmoid(gated))


def test_rotary_angles_stay_in_their_format():
    config, positions = tiny_config(head_dim=8, rope_theta=16.0), torch.tensor([[0, 3]])
    frequencies = rotary_frequencies(config, positions.device, torch.float64)
    assert frequencies.tolist() == pytest.approx([1, 1 / 2, 1 / 4, 1 / 8])
    cos, sin = rotary_table(positions, config, torch.float64)
    assert cos.shape == sin.shape == (1, 1, 2, 8)
    assert cos.dtype == torch.float64
    wanted = [3.0, 1.5, 0.75, 0.375] * 2
    assert cos[0, 0, 1].tolist() == pytest.approx([math.cos(angle) for angle in wanted])
    assert sin[0, 0, 1].tolist() == pytest.approx([math.sin(angle) for angle in wanted])
