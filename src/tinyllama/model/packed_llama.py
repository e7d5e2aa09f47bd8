"""Llama for training: few large matmuls, a 16-bit residual stream, fp32 where it matters.

`Llama` is the reference implementation. This computes the same function from the same parameters, faster:

- q, k and v are one matmul, gate and up another; the packed matrix is the concatenation of the canonical ones.
- Matmuls read matrices in `compute_dtype`, copies that are made once per update. Norms and their statistics, the embedding
  and the rotary angles stay in the parameters' own format (fp32).
- A layer ends with the first norm of the next one, so that residual addition and norm are one pass over memory.
- The residual stream between layers is in `stream_dtype`.

Letters as in llama.py: B batch, T tokens, D dim, H heads, G key and value heads, K head_dim, F ffn_dim, V vocab_size.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tinyllama.model.attention import attend_causal, attend_reference, fastest_first
from tinyllama.model.dropout import ATTENTION_RESIDUAL, EMBEDDING, FEED_FORWARD_RESIDUAL, layer_keys
from tinyllama.model.llama import Llama
from tinyllama.model.llama_config import LlamaConfig
from tinyllama.model.partition import WHOLE, Collectives, Partition
from tinyllama.model.rotary import rotary_table, rotate

try:
    from tinyllama.model import norm_kernel, swiglu_kernel
except ImportError:  # without Triton: PyTorch's own operations
    norm_kernel = swiglu_kernel = None

Recompute = Literal["none", "selective", "full"]


@dataclass(frozen=True, eq=False)
class PackedParameter:
    """One tensor that the optimizer updates: canonical parameters, concatenated by rows.

    `master` (fp32) holds the canonical parameters. `leaf` gets the gradient: it shares the master's memory, or is its
    16-bit copy. `copy` is what must be refreshed from the master after an update; None if there is no copy.
    """

    names: tuple[str, ...]
    rows: tuple[int, ...]
    master: Tensor
    leaf: nn.Parameter
    copy: Tensor | None
    path: str = ""  # of the leaf in the network

    def canonical(self, packed: Tensor) -> dict[str, Tensor]:
        """Views of a tensor of the master's shape, by canonical name."""
        return dict(zip(self.names, packed.split(self.rows), strict=True))


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """RMSNorm (Zhang and Sennrich 2019) of (..., D), computed in the weight's format, rounded once to `dtype`."""
    wide = x.to(weight.dtype)
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight).to(dtype)


@torch.inference_mode(False)  # the network may be used in other ways later
@torch.no_grad()
def pack(linears: list[nn.Linear]) -> Tensor:
    """Concatenate the weights of `linears` (out_i, in) to one matrix (sum of out_i, in), of which they become views.

    Linears that were packed before give the same matrix again.
    """
    weights = [linear.weight for linear in linears]
    sizes, width = [len(weight) for weight in weights], weights[0].shape[1]
    storages = {weight.untyped_storage().data_ptr() for weight in weights}
    offsets = [weight.storage_offset() - weights[0].storage_offset() for weight in weights]
    if len(storages) == 1 and offsets == [sum(sizes[:n]) * width for n in range(len(sizes))]:
        return weights[0].detach().as_strided((sum(sizes), width), (width, 1))
    packed = weights[0].new_empty(sum(sizes), width)  # not `cat`: on the meta device that loads torch.compile, for 2 s
    for linear, rows in zip(linears, packed.split(sizes), strict=True):
        rows.copy_(linear.weight)
        linear.weight = nn.Parameter(rows, requires_grad=linear.weight.requires_grad)
    return packed


class PackedLayer(nn.Module):
    """One layer: four matmuls, and between them two chains of operations that compile to one kernel each."""

    def __init__(
        self, config: LlamaConfig, compute_dtype: torch.dtype, recompute: Recompute, slices: Collectives
    ) -> None:
        super().__init__()
        self.config, self.compute_dtype, self.recompute, self.slices = config, compute_dtype, recompute, slices
        self.qkv: nn.Module
        self.o: nn.Module
        self.gate_up: nn.Module
        self.down: nn.Module
        self.attention_norm: nn.Parameter
        self.feed_forward_norm: nn.Parameter

    def forward(
        self,
        x: Tensor,  # (B, T, D), the residual stream
        normed: Tensor,  # (B, T, D), after this layer's first norm
        next_norm: Tensor | None,  # (D,), the weight of the norm after this layer; None: another stage has it
        cos: Tensor,
        sin: Tensor,
        dropout_keys: Tensor | None,  # (B,), this layer's
    ) -> tuple[Tensor, Tensor]:
        """The residual stream after this layer, and after the next norm (if there is none, the stream again)."""
        if self.recompute == "full":
            arguments = (x, normed, next_norm, cos, sin, dropout_keys)
            return checkpoint(self._compute, *arguments, use_reentrant=False, preserve_rng_state=False)
        return self._compute(x, normed, next_norm, cos, sin, dropout_keys)

    def _compute(
        self, x: Tensor, normed: Tensor, next_norm: Tensor | None, cos: Tensor, sin: Tensor, dropout_keys: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        probability, seq_len, drop = self.config.dropout, cos.shape[-2], self.slices.dropout
        attended = self._attention(normed, cos, sin, dropout_keys)
        attended = drop(attended, probability, dropout_keys, ATTENTION_RESIDUAL, seq_len)
        x, normed = self._add_norm(x, attended, self.feed_forward_norm)
        if self.recompute == "selective":
            fed = checkpoint(self._feed_forward, normed, use_reentrant=False, preserve_rng_state=False)
        else:
            fed = self._feed_forward(normed)
        return self._add_norm(x, drop(fed, probability, dropout_keys, FEED_FORWARD_RESIDUAL, seq_len), next_norm)

    def _uses_kernels(self, x: Tensor) -> bool:
        """Whether Triton's kernels run between the matmuls: 16-bit on a GPU. fp8's scaling fuses better without them."""
        return x.is_cuda and x.element_size() == 2 and type(self.down) is nn.Linear

    def _add_norm(self, x: Tensor, delta: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        """The residual stream x + delta, and its norm; (B, T, D) all."""
        D, eps = x.shape[-1], self.config.norm_eps
        if weight is None:
            x = x + delta.to(x.dtype)
            return x, x
        if norm_kernel is not None and self._uses_kernels(x) and x.dtype == delta.dtype and D <= norm_kernel.MAX_DIM:
            total, normed, _ = norm_kernel.add_rms_norm(x.flatten(0, -2), delta.flatten(0, -2), weight, eps)
            return total.view_as(x), normed.view_as(x)
        x = x + delta.to(x.dtype)
        return x, rms_norm(x, weight, eps, self.compute_dtype)

    def _attention(self, normed: Tensor, cos: Tensor, sin: Tensor, dropout_keys: Tensor | None) -> Tensor:
        normed, T = self.slices.gather(normed), cos.shape[-2]
        H, G, K = self.config.n_heads, self.config.n_kv_heads, self.config.head_dim
        heads = self.qkv(normed).view(-1, T, H + 2 * G, K).transpose(1, 2)  # (B, H + 2 G, T, K)
        q, k, v = heads.split((H, G, G), dim=1)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        v = v.clone()  # saved for the backward pass; a view would keep the whole output of qkv
        if dropout_keys is not None and self.config.attention_dropout > 0:
            first = self.slices.first_head
            out = attend_reference(q, k, v, None, self.config.attention_dropout, dropout_keys, first)
        else:
            out = attend_causal(q, k, v)  # (B, H, T, K)
        return self.slices.scatter(self.o(out.transpose(1, 2).reshape(*normed.shape[:-1], H * K)))

    def _feed_forward(self, normed: Tensor) -> Tensor:
        gate_up = self.gate_up(self.slices.gather(normed))  # (B, T, 2 F)
        if swiglu_kernel is not None and self._uses_kernels(gate_up):
            inside = swiglu_kernel.swiglu(gate_up.flatten(0, -2)).view(*gate_up.shape[:-1], -1)
        else:
            gate, up = gate_up.chunk(2, dim=-1)
            inside = F.silu(gate) * up
        return self.slices.scatter(self.down(inside))


class PackedLlama(nn.Module):
    """`Llama` in this form, for training: no cache, only the causal mask; the whole network or the partition of a process.

    It uses `llama`'s weights, whose matrices become views of packed ones. Call `refresh` after changing them from outside.
    `packed` lists the tensors that the optimizer updates.
    """

    def __init__(
        self,
        llama: Llama,
        compute_dtype: torch.dtype | None = None,
        stream_dtype: torch.dtype | None = None,
        recompute: Recompute = "none",
        partition: Partition = WHOLE,
    ) -> None:
        """`compute_dtype`, `stream_dtype`: default: the parameters' own. `llama` has the sizes of the partition."""
        super().__init__()
        self.config, self.partition, self.recompute = llama.config, partition, recompute
        dtype = llama.embedding.weight.dtype
        self.compute_dtype, self.stream_dtype = compute_dtype or dtype, stream_dtype or dtype
        self.packed: list[PackedParameter] = []
        self.embedding: nn.Parameter | None = None
        self.embedding_projection: nn.Linear | None = None
        self.norm: nn.Parameter | None = None
        self.head_projection: nn.Linear | None = None
        self.head: nn.Linear | None = None
        self.tied_copy: Tensor | None = None
        if partition.is_first:
            self.embedding = self._own("embedding.weight", llama.embedding.weight, "embedding")
            self.embedding_projection = self._projection("embedding_projection", llama.embedding_projection)
        self.layers = nn.ModuleList()
        for number, layer in enumerate(llama.layers):
            self.layers.append(self._layer(layer, number, recompute))
        if partition.is_last:
            self.norm = self._own("norm.weight", llama.norm.weight, "norm")
            self.head_projection = self._projection("head_projection", llama.head_projection)
            self.head = self._head(llama)
        self._first_norm = rms_norm

    # -- parameters ----------------------------------------------------------------------------------------------------

    def _own(self, name: str, parameter: Tensor, path: str) -> nn.Parameter:
        """A parameter that is used unchanged."""
        leaf = nn.Parameter(parameter.detach())
        self.packed.append(PackedParameter((name,), (len(leaf),), parameter.detach(), leaf, None, path))
        return leaf

    def _linear(self, names: tuple[str, ...], linears: list[nn.Linear], path: str) -> nn.Linear:
        """One linear layer that replaces several of the same input."""
        master = pack(linears)
        with torch.device("meta"):
            linear = nn.Linear(master.shape[1], master.shape[0], bias=False)
        is_copied = master.dtype != self.compute_dtype and not self.partition.keeps_masters
        linear.weight = nn.Parameter(master.to(self.compute_dtype) if is_copied else master)
        rows = tuple(one.out_features for one in linears)
        copy = linear.weight.detach() if is_copied else None
        self.packed.append(PackedParameter(names, rows, master, linear.weight, copy, f"{path}.weight"))
        return linear

    def _projection(self, name: str, linear: nn.Linear | None) -> nn.Linear | None:
        return None if linear is None else self._linear((f"{name}.weight",), [linear], name)

    def _layer(self, layer: Any, number: int, recompute: Recompute) -> PackedLayer:
        """A layer in this form; `layer` is one of llama.py's, number `number` of the partition."""
        made = PackedLayer(self.config, self.compute_dtype, recompute, self.partition.collectives)
        name, path = f"layers.{self.partition.first_layer + number}", f"layers.{number}"
        for norm in ("attention_norm", "feed_forward_norm"):
            setattr(made, norm, self._own(f"{name}.{norm}.weight", getattr(layer, norm).weight, f"{path}.{norm}"))
        for packed, block, projections in (
            ("qkv", "attention", ("q", "k", "v")),
            ("o", "attention", ("o",)),
            ("gate_up", "feed_forward", ("gate", "up")),
            ("down", "feed_forward", ("down",)),
        ):
            names = tuple(f"{name}.{block}.{one}.weight" for one in projections)
            linears = [getattr(getattr(layer, block), one) for one in projections]
            setattr(made, packed, self._linear(names, linears, f"{path}.{packed}"))
        return made

    def _head(self, llama: Llama) -> nn.Linear | None:
        """The head's matmul. Tied: None; its matrix is the embedding's entry, with a copy if the formats differ.

        Tied, if another stage has the embedding: an entry with the embedding's name, which must be kept equal.
        """
        if llama.head is not None:
            return self._linear(("head.weight",), [llama.head], "head")
        if not self.partition.is_first:
            with torch.device("meta"):
                head = nn.Linear(self.config.embedding_dim, self.config.vocab_size, bias=False)
            head.weight = nn.Parameter(llama.embedding.weight.detach())
            return self._linear(("embedding.weight",), [head], "head")
        tied = self.packed[0]
        if tied.master.dtype != self.compute_dtype and not self.partition.keeps_masters:
            self.tied_copy = tied.master.to(self.compute_dtype)
            self.packed[0] = replace(tied, copy=self.tied_copy)
        return None

    @property
    def output_weight(self) -> Tensor:
        """The head's matrix (V, E) as matmuls read it; the master if the partition keeps masters."""
        if self.head is not None:
            return self.head.weight
        assert self.embedding is not None
        return self.embedding if self.tied_copy is None else self.tied_copy

    @property
    def output(self) -> PackedParameter:
        """The entry of the head's matrix."""
        return self.packed[0] if self.head is None else self.packed[-1]

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the canonical weights to the 16-bit copies."""
        for parameter in self.packed:
            if parameter.copy is not None:
                parameter.copy.copy_(parameter.master)

    # -- the computation -----------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.packed[0].leaf.device

    def compile(self) -> None:
        """Compile one layer for all of them, and the norm before the first; it happens at their first use."""
        self._first_norm = torch.compile(rms_norm, fullgraph=True, dynamic=False)
        for layer in self.layers:
            layer.compile(fullgraph=True, dynamic=False)

    def hidden(self, tokens: Tensor, dropout_keys: Tensor | None = None) -> Tensor:
        """Token ids (B, T) to the normalised last layer (B, T, E) in `compute_dtype`, ready for the head.

        A stage without the embedding takes the residual stream of the stage before; one without the head returns its own.

        `dropout_keys` (B,), from `dropout.sample_keys`: default no dropout. If layers are recomputed and not compiled, the
        backward pass must run inside `fastest_first` too, so that the same attention kernel is chosen.
        """
        x = self._embed(tokens, dropout_keys) if self.partition.is_first else tokens
        seq_len = tokens.shape[1] if self.partition.is_first else self.partition.seq_len
        positions = torch.arange(seq_len, device=x.device)[None, :]
        cos, sin = rotary_table(positions, self.config, self.compute_dtype)
        norms: list[Any] = [layer.attention_norm for layer in self.layers] + [self.norm]
        normed = self._first_norm(x, norms[0], self.config.norm_eps, self.compute_dtype)
        with fastest_first():
            for number, layer in enumerate(self.layers):
                keys = layer_keys(dropout_keys, self.partition.first_layer + number)
                x, normed = layer(x, normed, norms[number + 1], cos, sin, keys)
        return normed if self.head_projection is None else self.head_projection(normed)

    def _embed(self, tokens: Tensor, dropout_keys: Tensor | None) -> Tensor:
        """The residual stream before the first layer, (B, T, D)."""
        assert self.embedding is not None
        x = self.partition.collectives.embed(tokens, self.embedding)  # (B, T, E)
        keys = layer_keys(dropout_keys, -1)
        x = self.partition.collectives.dropout(x, self.config.dropout, keys, EMBEDDING, tokens.shape[1])
        if self.embedding_projection is not None:
            x = self.embedding_projection(x.to(self.compute_dtype))  # (B, T, D)
        return x.to(self.stream_dtype)

    forward = hidden
